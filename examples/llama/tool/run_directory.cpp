#include "run_directory.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <losa/core/error.hpp>
#include <string>
#include <system_error>
#include <vector>

#include "common.hpp"

namespace tool {
namespace fs = std::filesystem;

namespace {

void sync_directory(const fs::path& directory) {
  const int fd = open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  fsync(fd);
  close(fd);
}

/// Absolute, without a slash at its end. Not normalised: behind a symbolic link ".." is another directory.
fs::path full_path(const fs::path& path) {
  const fs::path full = fs::absolute(path);
  return full.has_filename() ? full : full.parent_path();
}

/// True if the name still belongs to the open file.
bool same_file(int descriptor, const fs::path& path) {
  struct stat open_file {};
  struct stat named {};
  return fstat(descriptor, &open_file) == 0 && stat(path.c_str(), &named) == 0 && open_file.st_dev == named.st_dev &&
         open_file.st_ino == named.st_ino;
}

std::vector<fs::path> entries(const fs::path& directory) {
  std::vector<fs::path> found;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory)) found.push_back(entry.path());
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace

RunDirectory::RunDirectory(fs::path out, bool resume) : out_(std::move(out)) {
  if (out_.empty()) usage_error("--out: the name of the directory is empty");
  std::error_code error;
  const fs::file_status status = fs::status(out_, error);
  if (fs::exists(status) && !fs::is_directory(status))
    usage_error("--out ", out_.string(), ": exists and is not a directory");
  if (fs::exists(status)) {
    const bool empty = fs::is_empty(out_, error);
    if (error) losa::detail::raise<losa::FileError>("--out ", out_.string(), ": cannot be read: ", error.message());
    if (!empty && !resume)
      usage_error("--out ", out_.string(), ": is not empty; name another directory, or --resume to continue a run");
    if (!empty && !fs::exists(partial()) && !fs::exists(report()))
      usage_error("--out ", out_.string(), ": holds something that is no run of this program");
  }
  if (complete()) {
    remove_leftovers();
    return;  // nothing will be written
  }

  for (fs::path at = full_path(out_); !fs::exists(at, error) && at.has_relative_path(); at = at.parent_path())
    made_ = at;
  error.clear();
  try {
    make_and_lock();
  } catch (...) {
    remove_made();
    throw;
  }
}

void RunDirectory::make_and_lock() {
  std::error_code error;
  fs::create_directories(out_, error);
  if (!error) fs::create_directory(partial(), error);
  if (error) losa::detail::raise<losa::FileError>("--out ", out_.string(), ": cannot be made: ", error.message());

  const fs::path lock = partial() / "lock";
  lock_ = open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (lock_ < 0) losa::detail::raise<losa::FileError>(lock.string(), ": cannot be opened: ", std::strerror(errno));
  if (flock(lock_, LOCK_EX | LOCK_NB) != 0) {
    close(lock_);
    lock_ = -1;
    usage_error("--out ", out_.string(), ": another process works there");
  }
  // The owner of the lock may have finished, and removed the file, between our two calls.
  if (complete() || !same_file(lock_, lock)) {
    close(lock_);
    lock_ = -1;
    usage_error("--out ", out_.string(), ": another process has just worked there; try again");
  }
}

RunDirectory::~RunDirectory() {
  std::error_code ignored;
  if (lock_ >= 0 && !published_ && (abandoned_ || !has_state())) {
    // .partial stays beside what an earlier or this run has published in part: it says whose that is, and --resume
    // goes on from there.
    if (holds_more_than_partial()) {
      fs::remove(state(), ignored);
      fs::remove_all(staging(), ignored);
    } else {
      fs::remove_all(partial(), ignored);
      remove_made();
    }
  }
  if (lock_ >= 0) close(lock_);
}

void RunDirectory::remove_made() const {
  std::error_code ignored;
  if (made_.empty()) return;
  // Only what is empty goes: somebody else may have put something there.
  for (fs::path at = full_path(out_);; at = at.parent_path()) {
    if (at == full_path(out_)) fs::remove(partial(), ignored);
    if (fs::exists(at, ignored) && !fs::remove(at, ignored)) return;
    if (at == made_) return;
  }
}

bool RunDirectory::holds_more_than_partial() const {
  std::error_code error;
  for (fs::directory_iterator at(out_, error); !error && at != fs::directory_iterator(); at.increment(error))
    if (at->path().filename() != partial().filename()) return true;
  return false;
}

bool RunDirectory::complete() const {
  std::error_code error;
  return fs::exists(report(), error);  // publish() moves it last
}

void RunDirectory::remove_leftovers() const {
  const int lock = open((partial() / "lock").c_str(), O_RDWR | O_CLOEXEC);
  const bool busy = lock >= 0 && flock(lock, LOCK_EX | LOCK_NB) != 0;
  std::error_code ignored;
  if (!busy) fs::remove_all(partial(), ignored);
  if (lock >= 0) close(lock);
}

bool RunDirectory::has_state() const {
  std::error_code error;
  return fs::exists(state(), error);
}

void RunDirectory::clear_staging() const {
  fs::remove_all(staging());
  fs::create_directory(staging());
}

void RunDirectory::publish() {
  std::vector<fs::path> staged = entries(staging());
  // The report comes last: where it stands, the rest stands too.
  std::stable_partition(staged.begin(), staged.end(), [](const fs::path& p) { return p.filename() != "report.json"; });
  for (const fs::path& from : staged) {
    const fs::path to = out_ / from.filename();
    if (fs::is_directory(to)) fs::remove_all(to);  // from an earlier try that was killed here
    fs::rename(from, to);
  }
  sync_directory(out_);
  fs::remove_all(partial());
  sync_directory(out_);
  published_ = true;
}

}  // namespace tool
