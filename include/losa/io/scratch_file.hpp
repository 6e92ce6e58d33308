#pragma once
// A file without a name for what does not fit into memory: bytes that are written and read back at offsets, and memory
// that the file backs, which the system may write out whenever it needs the room. It vanishes with the object, however
// the program ends.
//
//   losa::io::ScratchFile scratch("out/.partial");
//   const std::size_t at = scratch.reserve(bytes.size());
//   scratch.write(at, bytes);                                // ... scratch.read(at, bytes)
//   std::shared_ptr<float[]> hidden = scratch.map<float>(n);

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include <losa/core/error.hpp>
#include <losa/io/mapped_file.hpp>

namespace losa::inline v0::io {

class ScratchFile {
 public:
  /// In `directory`, which must be on a disk with room. Throws FileError.
  explicit ScratchFile(std::string directory) : directory_(std::move(directory)) {
    std::string name = (std::filesystem::path(directory_) / ".losa-scratch-XXXXXX").string();
    file_ = std::make_shared<detail::FileHandle>(::mkostemp(name.data(), O_CLOEXEC));
    if (!*file_) fail("cannot make a scratch file", errno);
    ::unlink(name.c_str());
  }

  /// Room for `bytes` bytes, on the disk, so that a full one is met here. Returns its offset. Throws FileError.
  std::size_t reserve(std::size_t bytes) {
    const std::size_t offset = end_;
    if (bytes == 0) return offset;
    const std::size_t room = (bytes + page - 1) / page * page;  // every piece can be mapped
    int error = 0;
    do error = ::posix_fallocate(file_->get(), static_cast<::off_t>(offset), static_cast<::off_t>(room));
    while (error == EINTR);
    if (error != 0) fail("cannot grow the scratch file", error);
    end_ += room;
    return offset;
  }
  std::size_t size() const noexcept { return end_; }
  int descriptor() const noexcept { return file_->get(); }

  /// Throws FileError.
  void write(std::size_t offset, std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ::ssize_t n = ::pwrite(file_->get(), bytes.data(), bytes.size(), static_cast<::off_t>(offset));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail("cannot write the scratch file", errno);
      bytes = bytes.subspan(static_cast<std::size_t>(n));
      offset += static_cast<std::size_t>(n);
    }
  }
  void read(std::size_t offset, std::span<std::byte> bytes) const {
    while (!bytes.empty()) {
      const ::ssize_t n = ::pread(file_->get(), bytes.data(), bytes.size(), static_cast<::off_t>(offset));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) fail("cannot read the scratch file", n < 0 ? errno : EIO);
      bytes = bytes.subspan(static_cast<std::size_t>(n));
      offset += static_cast<std::size_t>(n);
    }
  }

  /// n zeros backed by the file; valid as long as the pointer lives, even after the object. Their room on the disk is
  /// given back with the last pointer. Throws FileError.
  template <class Element>
  std::shared_ptr<Element[]> map(std::size_t n) {
    if (n == 0) return std::make_shared<Element[]>(0);
    const std::size_t bytes = n * sizeof(Element);
    const std::size_t offset = reserve(bytes);
    void* address =
        ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file_->get(), static_cast<::off_t>(offset));
    if (address == MAP_FAILED) fail("cannot map the scratch file", errno);
    return {static_cast<Element*>(address), [file = file_, offset, bytes](Element* p) {
              ::munmap(p, bytes);
              // Where the file system cannot, the room stays taken until the file is gone.
              static_cast<void>(::fallocate(file->get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                            static_cast<::off_t>(offset), static_cast<::off_t>(bytes)));
            }};
  }

 private:
  static constexpr std::size_t page = std::size_t{1} << 16;  // a multiple of every page size in use

  [[__noreturn__]] void fail(const char* what, int error) const {
    detail::raise<FileError>(directory_, ": ", what, ": ", detail::errno_text(error));
  }

  std::string directory_;
  std::shared_ptr<detail::FileHandle> file_;
  std::size_t end_ = 0;
};

}  // namespace losa::inline v0::io
