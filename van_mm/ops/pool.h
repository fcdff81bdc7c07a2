// A memory pool for feature maps.
//
// The C library requests blocks of tens of megabytes from the system each time, and the system fills them with zeros
// page by page. That takes longer than most of the operators here, so the pool reuses its blocks. It holds at most as
// many bytes as were ever in use at once.
#pragma once

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <c10/core/impl/alloc_cpu.h>

#include <map>
#include <mutex>

namespace van_mm {

// An allocator that is safe to call from several threads.
class Pool final : public c10::Allocator {
 public:
  static Pool& instance() {
    static Pool* pool = new Pool;  // never deleted, because tensors may still release blocks at exit
    return *pool;
  }

  c10::DataPtr allocate(size_t bytes) override {
    const std::lock_guard<std::mutex> guard(lock_);
    auto block = free_.lower_bound(bytes);
    if (block == free_.end() || block->first > bytes + bytes / 4) {  // no free block fits closely
      while (!free_.empty() && used_ + spare_ + bytes > most_used_) {
        block = std::prev(free_.end());
        spare_ -= block->first;
        c10::free_cpu(block->second);
        free_.erase(block);
      }
      block = free_.emplace(bytes, c10::alloc_cpu(bytes));
      spare_ += bytes;
    }
    const auto [size, memory] = *block;
    free_.erase(block);
    spare_ -= size;
    used_ += size;
    most_used_ = std::max(most_used_, used_);
    sizes_[memory] = size;
    return {memory, memory, &release, c10::Device(c10::kCPU)};
  }

  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }

 private:
  static void release(void* memory) {
    Pool& pool = instance();
    const std::lock_guard<std::mutex> guard(pool.lock_);
    const auto entry = pool.sizes_.find(memory);
    pool.used_ -= entry->second;
    pool.spare_ += entry->second;
    pool.free_.emplace(entry->second, memory);
    pool.sizes_.erase(entry);
  }

  std::mutex lock_;
  std::multimap<size_t, void*> free_;            // free blocks by size in bytes
  std::map<void*, size_t> sizes_;                // sizes of the blocks in use
  size_t used_ = 0, spare_ = 0, most_used_ = 0;  // bytes in use, bytes in free blocks, maximum of used_
};

// Returns an uninitialized CPU tensor, from the pool if it has at least 256 KiB (our choice).
inline at::Tensor empty_pooled(at::IntArrayRef size, at::ScalarType type, at::MemoryFormat format) {
  if (c10::multiply_integers(size) * c10::elementSize(type) < 1 << 18) return at::empty(size, at::dtype(type), format);
  return at::detail::empty_generic(size, &Pool::instance(), c10::DispatchKeySet(c10::DispatchKey::CPU), type, format);
}
// Returns an uninitialized channels-last tensor with the shape and type of x.
inline at::Tensor empty_pooled_like(const at::Tensor& x) {
  return empty_pooled(x.sizes(), x.scalar_type(), at::MemoryFormat::ChannelsLast);
}

}  // namespace van_mm
