// Memory for maps. What the C library gives for tens of megabytes is new to the process each time, and the system fills
// it with zeros page by page, which takes longer than most of the operators here. These blocks are used again, and no
// more of them are held than the most that were ever in use at once.
#pragma once

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <c10/core/impl/alloc_cpu.h>

#include <map>
#include <mutex>

namespace van_mm {

class Pool final : public c10::Allocator {
 public:
  static Pool& instance() {
    static Pool* pool = new Pool;  // outlives every tensor
    return *pool;
  }

  c10::DataPtr allocate(size_t bytes) override {
    const std::lock_guard<std::mutex> guard(lock_);
    auto block = free_.lower_bound(bytes);
    if (block == free_.end() || block->first > bytes + bytes / 4) {  // none fits: hold no more than the most used
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
    const auto found = pool.sizes_.find(memory);
    pool.used_ -= found->second;
    pool.spare_ += found->second;
    pool.free_.emplace(found->second, memory);
    pool.sizes_.erase(found);
  }

  std::mutex lock_;
  std::multimap<size_t, void*> free_;
  std::map<void*, size_t> sizes_;
  size_t used_ = 0, spare_ = 0, most_used_ = 0;
};

// A tensor with nothing in it yet, in memory of the pool if it is large.
inline at::Tensor fresh(at::IntArrayRef size, at::ScalarType type, at::MemoryFormat format) {
  if (c10::multiply_integers(size) * c10::elementSize(type) < 1 << 18) return at::empty(size, at::dtype(type), format);
  return at::detail::empty_generic(size, &Pool::instance(), c10::DispatchKeySet(c10::DispatchKey::CPU), type, format);
}
inline at::Tensor fresh_like(const at::Tensor& x) {
  return fresh(x.sizes(), x.scalar_type(), at::MemoryFormat::ChannelsLast);
}

}  // namespace van_mm
