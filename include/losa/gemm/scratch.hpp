#pragma once
// Memory for packed matrices and products: 64-byte aligned arrays, and scratch space that a thread keeps between
// products so that a product does not pay for fresh pages. A thread holds at most four blocks, the largest it has
// needed, until it ends.
//
//   const detail::Scratch scratch(bytes);
//   std::byte* memory = scratch.data();

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

namespace losa::inline v0::detail {

inline constexpr std::size_t cache_line = 64;

constexpr std::size_t round_up(std::size_t n, std::size_t step) noexcept { return (n + step - 1) / step * step; }

struct AlignedDelete {
  void operator()(std::byte* memory) const noexcept { ::operator delete (memory, std::align_val_t{cache_line}); }
};
using AlignedBytes = std::unique_ptr<std::byte, AlignedDelete>;

/// Large blocks ask for huge pages, which many systems give only on request: cold weights cost fewer walks of the page
/// table (f32, one token, 4096 × 4096 at 70 %, two threads of Zen 4: 0.9–1.0 → 0.7–0.8 ms).
inline AlignedBytes aligned_bytes(std::size_t n) {
  AlignedBytes memory(static_cast<std::byte*>(::operator new (n, std::align_val_t{cache_line})));
#if defined(__linux__)
  constexpr std::size_t page = 4096;
  constexpr std::size_t large = std::size_t{4} << 20;
  if (n >= large) {
    const auto begin = round_up(reinterpret_cast<std::uintptr_t>(memory.get()), page);
    const auto end = (reinterpret_cast<std::uintptr_t>(memory.get()) + n) / page * page;
    ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // refused on larger pages: as before
  }
#endif
  return memory;
}

/// Array of n trivial elements, zero at first, followed by one cache line of zeros that vector loads may read.
template <class Element>
class PaddedArray {
  static_assert(std::is_trivially_copyable_v<Element>);

 public:
  PaddedArray() = default;
  explicit PaddedArray(std::size_t n) : bytes_(aligned_bytes(n * sizeof(Element) + cache_line)), size_(n) {
    std::memset(static_cast<void*>(bytes_.get()), 0, n * sizeof(Element) + cache_line);
  }
  PaddedArray(const PaddedArray& other)
      : bytes_(other.bytes_ ? aligned_bytes(other.size_ * sizeof(Element) + cache_line) : nullptr), size_(other.size_) {
    if (bytes_) std::memcpy(bytes_.get(), other.bytes_.get(), size_ * sizeof(Element) + cache_line);
  }
  PaddedArray(PaddedArray&& other) noexcept : bytes_(std::move(other.bytes_)), size_(std::exchange(other.size_, 0)) {}
  PaddedArray& operator=(PaddedArray other) noexcept {
    std::swap(bytes_, other.bytes_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~PaddedArray() = default;

  Element* data() noexcept { return reinterpret_cast<Element*>(bytes_.get()); }
  const Element* data() const noexcept { return reinterpret_cast<const Element*>(bytes_.get()); }
  std::size_t size() const noexcept { return size_; }

 private:
  AlignedBytes bytes_;
  std::size_t size_ = 0;
};

/// Scratch space of one product or task, taken from what the thread has kept and given back at the end. A task that
/// starts on the same thread meanwhile gets another block, so nested products are safe.
class Scratch {
 public:
  explicit Scratch(std::size_t bytes) {
    if (bytes == 0) return;
    Block* best = nullptr;
    for (Block& block : kept())
      if (block.size >= bytes && (best == nullptr || block.size < best->size)) best = &block;
    if (best != nullptr) {
      block_ = std::exchange(*best, Block{});
    } else {
      block_.size = round_up(bytes, 4096);
      block_.memory = aligned_bytes(block_.size);
    }
  }
  ~Scratch() {
    Block* smallest = &kept().front();
    for (Block& block : kept())
      if (block.size < smallest->size) smallest = &block;
    if (smallest->size < block_.size) *smallest = std::move(block_);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  /// Bytes that the calling thread keeps for products to come.
  static std::size_t held() noexcept {
    std::size_t bytes = 0;
    for (const Block& block : kept()) bytes += block.size;
    return bytes;
  }

  /// Uninitialised, aligned to 64 bytes.
  std::byte* data() const noexcept { return block_.memory.get(); }
  std::size_t size() const noexcept { return block_.size; }

 private:
  struct Block {
    AlignedBytes memory;
    std::size_t size = 0;
  };
  static std::array<Block, 4>& kept() noexcept {
    static thread_local std::array<Block, 4> blocks;
    return blocks;
  }

  Block block_;
};

}  // namespace losa::inline v0::detail
