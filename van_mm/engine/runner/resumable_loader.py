"""Data loaders that start at any batch, with samples that depend on nothing but the seed and their place."""

from collections.abc import Iterator

from mmengine.dist import get_dist_info
from torch.utils.data import DataLoader, IterableDataset

from van_mm.utils.random_state import seed_generators


class PlacedBatch(list):
    """The indices of a batch.

    Attributes:
        iteration (int): The training iteration of the batch.
    """

    iteration = 0


class PlacedBatches:
    """The batches of a batch sampler, each with its training iteration.

    Args:
        batch_sampler (Iterable): Gives the indices of each batch.

    Attributes:
        iteration (int): The training iteration of the next batch.
    """

    def __init__(self, batch_sampler) -> None:
        self.batch_sampler, self.iteration, self.remaining = batch_sampler, 0, None

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[PlacedBatch]:
        batches, self.remaining = self.remaining or iter(self.batch_sampler), None
        for indices in batches:
            batch = PlacedBatch(indices)
            batch.iteration = self.iteration
            self.iteration += 1
            yield batch

    def skip(self, number: int) -> int:
        """Discard batches of the next pass over the data, and of further passes if it has fewer. No data is read.

        Returns:
            int: The number of passes that end before the next batch, as mmengine counts them.
        """
        passes, self.remaining = 0, iter(self.batch_sampler)
        for _ in range(number):
            if next(self.remaining, None) is None:
                passes += 1
                sampler = getattr(self.batch_sampler, "sampler", None)
                if hasattr(sampler, "set_epoch"):
                    sampler.set_epoch(passes)
                self.remaining = iter(self.batch_sampler)
                next(self.remaining)
        return passes


class SeededFetch:
    """Load the samples of a batch, each with random generators that are seeded by its place in the training.

    The place is the iteration and the position among the samples of all ranks. The augmentation of a sample therefore
    depends on neither the batches before, nor the worker, nor the number of ranks that share a batch.

    Args:
        dataset (Dataset): The data set.
        seed (int): Seed of the run.
    """

    def __init__(self, dataset, seed: int) -> None:
        self.dataset, self.seed = dataset, seed
        self.rank, self.world_size = get_dist_info()
        self.get_items = getattr(dataset, "__getitems__", None)

    def __call__(self, batch: list) -> list:
        if not isinstance(batch, PlacedBatch):  # of another loader for the same data set
            return self.load(batch)
        samples = []
        for position, index in enumerate(batch):
            seed_generators("sample", self.seed, batch.iteration, position * self.world_size + self.rank)
            samples += self.load([index])
        return samples

    def load(self, indices: list) -> list:
        """Return the samples of these indices."""
        return self.get_items(indices) if self.get_items else [self.dataset[index] for index in indices]


class ResumableLoader(DataLoader):
    """A loader that can start at any batch without reading the data before it.

    Its iterators start the workers when they give their first batch, because mmengine's iteration-based loop creates
    one before it knows where the run resumes.

    Attributes:
        batches (PlacedBatches): Gives the indices of each batch.
    """

    def __iter__(self) -> Iterator:
        yield from super().__iter__()

    @property
    def _index_sampler(self) -> PlacedBatches:
        return self.batches

    @property
    def samples_per_step(self) -> int:
        """Number of samples in the batches of all ranks."""
        size = self.batch_size or getattr(self.batch_sampler, "batch_size", 1)
        return size * get_dist_info()[1]


def make_resumable(loader: DataLoader, seed: int) -> None:
    """Turn a data loader into a :class:`ResumableLoader`, in place. Data sets without indices stay as they are.

    Args:
        loader (DataLoader): Loader that has not been iterated over.
        seed (int): Seed of the run.
    """
    if isinstance(loader, ResumableLoader) or loader.batch_sampler is None:
        return
    if isinstance(loader.dataset, IterableDataset):
        return
    loader._iterator = None  # of persistent workers, which have the data set as it was
    loader.batches = PlacedBatches(loader.batch_sampler)
    if hasattr(loader.dataset, "__dict__"):  # a list has none, and no randomness either
        loader.dataset.__getitems__ = SeededFetch(loader.dataset, seed)
    loader.__class__ = type("ResumableLoader", (ResumableLoader, type(loader)), {})
