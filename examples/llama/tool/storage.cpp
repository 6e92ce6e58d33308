#include "storage.hpp"

#include <sys/mman.h>

#include <cerrno>
#include <filesystem>
#include <losa/io/file_services.hpp>
#include <losa/io/scratch_file.hpp>
#include <system_error>

#include "common.hpp"
#include "notes.hpp"

namespace tool {
namespace fs = std::filesystem;

namespace {

bool can_map(const fs::path& path) {
  const losa::detail::FileHandle file = losa::detail::open_to_read(path.c_str());
  if (!file) return true;  // who reads it says why it cannot
  void* const address = mmap(nullptr, 1, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (address == MAP_FAILED) return !losa::detail::is_missing_service(errno);
  munmap(address, 1);
  return true;
}

}  // namespace

void note_unmapped(const std::string& model, std::size_t times) {
  std::error_code error;
  double bytes = 0;
  bool unmapped = false;
  for (fs::directory_iterator at(model, error); !error && at != fs::directory_iterator(); at.increment(error)) {
    std::error_code ignored;
    if (at->path().extension() != ".safetensors" || !at->is_regular_file(ignored)) continue;
    const auto size = at->file_size(ignored);
    if (ignored || size == 0) continue;
    if (!unmapped && can_map(at->path())) return;
    unmapped = true;
    bytes += static_cast<double>(size);
  }
  if (unmapped)
    note(model + ": its file system cannot map files: its weights are read into memory, " +
         bytes_text(bytes * static_cast<double>(times)));
}

void note_unmapped_scratch(const std::string& directory) {
  losa::io::ScratchFile trial(directory);
  static_cast<void>(trial.map<char>(1));
  if (!trial.maps())
    note(directory +
         ": its file system cannot map files for writing: the calibration set's hidden states stay in memory");
}

}  // namespace tool
