#pragma once
// Where an image is built: in a block of its own, or in memory of the caller.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>

#include <losa/core/error.hpp>
#include <losa/gemm/scratch.hpp>

namespace losa::inline v0::detail {

class ImageMemory {
 public:
  ImageMemory() = default;
  /// In `to`, which has to be aligned to 64 and large enough, and to outlive what is built there.
  explicit ImageMemory(std::span<std::byte> to) noexcept : to_(to), foreign_(true) {}

  /// `bytes` zeros. Throws ShapeError if the caller's memory is too small or not aligned.
  std::shared_ptr<std::byte> take(std::size_t bytes) const {
    std::shared_ptr<std::byte> block;
    if (foreign_) {
      if (to_.size() < bytes) raise<ShapeError>("image: memory must have ", bytes, " bytes, got ", to_.size());
      expect_aligned(to_.data());
      block = std::shared_ptr<std::byte>(to_.data(), [](std::byte*) {});
    } else {
      block = aligned_bytes(bytes);
    }
    std::memset(block.get(), 0, bytes);
    return block;
  }

  static void expect_aligned(const void* memory) {
    const auto past = reinterpret_cast<std::uintptr_t>(memory) % cache_line;
    if (past != 0) raise<ShapeError>("image: memory must be aligned to 64 bytes, got an address ", past, " past that");
  }

 private:
  std::span<std::byte> to_;
  bool foreign_ = false;
};

/// The elements of a part.
template <class Element>
std::span<Element> image_part(std::byte* image, std::uint64_t offset, std::uint64_t bytes) noexcept {
  return {reinterpret_cast<Element*>(image + offset), static_cast<std::size_t>(bytes / sizeof(Element))};
}

}  // namespace losa::inline v0::detail
