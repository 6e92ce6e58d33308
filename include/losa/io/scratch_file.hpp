#pragma once
// A file without a name for what does not fit into memory: bytes that are written and read back at offsets, and memory
// that the file backs, which the system may write out whenever it needs the room. It vanishes with the object, however
// the program ends; where the file system cannot remove an open file, with the object alone. Where it cannot map files
// for writing, the memory is ordinary memory.
//
//   losa::io::ScratchFile scratch("out/.partial");
//   const std::size_t at = scratch.reserve(bytes.size());
//   scratch.write(at, bytes);                                // ... scratch.read(at, bytes)
//   std::shared_ptr<float[]> hidden = scratch.map<float>(n);

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <losa/core/error.hpp>
#include <losa/io/file_services.hpp>

namespace losa::inline v0::io {

class ScratchFile {
 public:
  /// In `directory`, which must be on a disk with room. Throws FileError.
  explicit ScratchFile(std::string directory) : directory_(std::move(directory)) {
    const std::string pattern = (std::filesystem::path(directory_) / ".losa-scratch-XXXXXX").string();
    std::string name;
    detail::FileHandle handle(detail::uninterrupted([&] {
      name = pattern;
      return ::mkostemp(name.data(), O_CLOEXEC);
    }));
    if (!handle) fail("cannot make a scratch file", errno);
    file_ = std::make_shared<Unnamed>(std::move(handle));
    if (::unlink(name.c_str()) != 0) file_->name = std::move(name);
  }

  /// Room for `bytes` bytes, on the disk, so that a full one is met here. Returns its offset. Throws FileError.
  std::size_t reserve(std::size_t bytes) {
    const std::size_t offset = end_;
    if (bytes == 0) return offset;
    const std::size_t room = (bytes + page - 1) / page * page;  // every piece can be mapped
    int error = 0;
    do error = ::posix_fallocate(descriptor(), static_cast<::off_t>(offset), static_cast<::off_t>(room));
    while (error == EINTR);
    if (error != 0 && !detail::is_missing_service(error)) fail("cannot grow the scratch file", error);
    if (error != 0) write_zeros(offset, room);
    end_ += room;
    return offset;
  }
  std::size_t size() const noexcept { return end_; }
  int descriptor() const noexcept { return file_->handle.get(); }

  /// Throws FileError.
  void write(std::size_t offset, std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ::ssize_t n = detail::uninterrupted(
          [&] { return ::pwrite(descriptor(), bytes.data(), bytes.size(), static_cast<::off_t>(offset)); });
      if (n < 0) fail("cannot write the scratch file", errno);
      bytes = bytes.subspan(static_cast<std::size_t>(n));
      offset += static_cast<std::size_t>(n);
    }
  }
  void read(std::size_t offset, std::span<std::byte> bytes) const {
    while (!bytes.empty()) {
      const ::ssize_t n = detail::uninterrupted(
          [&] { return ::pread(descriptor(), bytes.data(), bytes.size(), static_cast<::off_t>(offset)); });
      if (n <= 0) fail("cannot read the scratch file", n < 0 ? errno : EIO);
      bytes = bytes.subspan(static_cast<std::size_t>(n));
      offset += static_cast<std::size_t>(n);
    }
  }

  /// n zeros backed by the file, or by nothing where it cannot be mapped for writing; valid as long as the pointer
  /// lives, even after the object. Their room on the disk is given back with the last pointer. Throws FileError.
  template <class Value>
  std::shared_ptr<Value[]> map(std::size_t n) {
    if (n == 0) return std::make_shared<Value[]>(0);
    const std::size_t bytes = n * sizeof(Value);
    if (maps_) {
      const std::size_t offset = reserve(bytes);
      void* address =
          ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor(), static_cast<::off_t>(offset));
      const int error = errno;
      if (address != MAP_FAILED)
        return {static_cast<Value*>(address), [file = file_, offset, bytes](Value* values) {
                  ::munmap(values, bytes);
                  give_back(*file, offset, bytes);
                }};
      if (!detail::is_missing_service(error)) fail("cannot map the scratch file", error);
      give_back(*file_, offset, bytes);
      maps_ = false;
    }
    void* address = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (address == MAP_FAILED) fail("cannot map the scratch file, nor get memory in its place", errno);
    return {static_cast<Value*>(address), [bytes](Value* values) { ::munmap(values, bytes); }};
  }
  /// False once map() has had to hand out memory that the file does not back.
  bool maps() const noexcept { return maps_; }

 private:
  static constexpr std::size_t page = std::size_t{1} << 16;  // a multiple of every page size in use

  /// The open file; and its name, if it could not be removed at once.
  struct Unnamed {
    explicit Unnamed(detail::FileHandle file) noexcept : handle(std::move(file)) {}
    Unnamed(const Unnamed&) = delete;
    Unnamed& operator=(const Unnamed&) = delete;
    ~Unnamed() {
      static_cast<void>(handle.close());
      if (!name.empty()) ::unlink(name.c_str());
    }
    detail::FileHandle handle;
    std::string name;
  };

  static void give_back(const Unnamed& file, std::size_t offset, std::size_t bytes) noexcept {
    // Where the file system cannot, the room stays taken until the file is gone.
    static_cast<void>(::fallocate(file.handle.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                  static_cast<::off_t>(offset), static_cast<::off_t>(bytes)));
  }
  /// Takes room as posix_fallocate does, at the price of writing it.
  void write_zeros(std::size_t offset, std::size_t bytes) {
    const std::vector<std::byte> zeros(std::min(bytes, std::size_t{1} << 20));
    for (std::size_t done = 0; done < bytes; done += zeros.size())
      write(offset + done, std::span(zeros).first(std::min(zeros.size(), bytes - done)));
  }

  [[__noreturn__]] void fail(const char* what, int error) const {
    detail::raise<FileError>(directory_, ": ", what, ": ", detail::errno_text(error));
  }

  std::string directory_;
  std::shared_ptr<Unnamed> file_;
  std::size_t end_ = 0;
  bool maps_ = true;
};

}  // namespace losa::inline v0::io
