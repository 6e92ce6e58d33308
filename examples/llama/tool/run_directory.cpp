#include "run_directory.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <losa/core/error.hpp>
#include <losa/io/file_services.hpp>
#include <losa/io/mapped_file.hpp>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "common.hpp"
#include "notes.hpp"

namespace tool {
namespace fs = std::filesystem;

namespace {

using losa::detail::errno_text;
using losa::detail::raise;

/// Throws losa::FileError if the names in it could not be flushed; goes on where nothing can be.
void sync_directory(const fs::path& directory) {
  const int error = losa::detail::flush_directory(directory.c_str());
  if (error != 0 && !losa::detail::is_missing_service(error))
    raise<losa::FileError>(directory.string(), ": cannot be flushed: ", errno_text(error));
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
  if (fstat(descriptor, &open_file) == 0 && stat(path.c_str(), &named) == 0 && open_file.st_dev == named.st_dev &&
      open_file.st_ino == named.st_ino)
    return true;
  // Some file systems number a file anew at every look: what is written into one is read from the other.
  const auto now = std::chrono::steady_clock::now().time_since_epoch().count();
  const std::string word = losa::detail::text(getpid(), ' ', now);
  if (pwrite(descriptor, word.data(), word.size(), 0) != static_cast<ssize_t>(word.size())) return true;  // who knows
  try {
    const losa::io::MappedFile file(path.string());
    return std::string_view(reinterpret_cast<const char*>(file.bytes().data()), file.size()).starts_with(word);
  } catch (const losa::FileError&) {
    return false;
  }
}

std::vector<fs::path> entries(const fs::path& directory) {
  std::vector<fs::path> found;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory)) found.push_back(entry.path());
  std::sort(found.begin(), found.end());
  return found;
}

/// Renames; a directory that cannot be renamed (on overlays, one from a lower layer) entry by entry. Throws
/// losa::FileError.
void move_entry(const fs::path& from, const fs::path& to) {
  std::error_code error;
  if (fs::is_directory(to, error)) fs::remove_all(to, error);  // from an earlier try that was killed here
  error.clear();
  fs::rename(from, to, error);
  if (!error) return;
  std::error_code ignored;
  if (!fs::is_directory(from, ignored) || !fs::create_directory(to, ignored))
    raise<losa::FileError>(to.string(), ": cannot be moved to its place: ", error.message());
  for (const fs::path& entry : entries(from)) move_entry(entry, to / entry.filename());
  fs::remove(from, ignored);
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
    if (error) raise<losa::FileError>("--out ", out_.string(), ": cannot be read: ", error.message());
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
  if (error) raise<losa::FileError>("--out ", out_.string(), ": cannot be made: ", error.message());

  const fs::path lock = partial() / "lock";
  lock_ = losa::detail::uninterrupted([&] { return open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644); });
  if (lock_ < 0) raise<losa::FileError>(lock.string(), ": cannot be opened: ", errno_text(errno));
  const auto unlock = [this] {
    close(lock_);
    lock_ = -1;
  };
  const bool locked = losa::detail::uninterrupted([&] { return flock(lock_, LOCK_EX | LOCK_NB); }) == 0;
  if (!locked && errno == EWOULDBLOCK) {
    unlock();
    usage_error("--out ", out_.string(), ": another process works there");
  }
  // The owner of the lock may have finished, and removed the file, between our two calls.
  if (complete() || (locked && !same_file(lock_, lock))) {
    unlock();
    usage_error("--out ", out_.string(), ": another process has just worked there; try again");
  }

  int flushed = losa::detail::flush_file(lock_);
  if (flushed == 0) flushed = losa::detail::flush_directory(partial().c_str());
  if (flushed != 0 && !losa::detail::is_missing_service(flushed)) {
    fs::remove(lock, error);
    fs::remove(partial(), error);  // unless an earlier run's state is there
    unlock();
    raise<losa::FileError>("--out ", out_.string(), ": cannot be flushed: ", errno_text(flushed));
  }
  std::string lacks;
  if (!locked) lacks = "files cannot be locked there: start no second run in it";
  if (flushed != 0)
    lacks += std::string(lacks.empty() ? "" : "; ") + "files cannot be flushed there: a power cut may take back what " +
             "was written last";
  if (!lacks.empty()) note("--out " + out_.string() + ": " + lacks);
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
  if (!published_ || !fs::exists(partial(), ignored)) return;
  // Network file systems keep the names of files that are open; these are closed now.
  std::error_code error;
  fs::remove_all(partial(), error);
  if (error)
    note("--out " + out_.string() + ": the run is complete, but " + partial().string() + " cannot be removed (" +
         error.message() + "); it is of no more use");
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
  const bool busy = lock >= 0 && flock(lock, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
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
  // The report comes last: where it stands, the rest stands too, also after a power cut.
  const fs::path staged_report = staging() / report().filename();
  std::erase(staged, staged_report);
  for (const fs::path& from : staged) move_entry(from, out_ / from.filename());
  sync_directory(out_);
  move_entry(staged_report, report());
  std::error_code error;
  try {
    sync_directory(out_);
  } catch (const losa::FileError&) {
    fs::remove(report(), error);  // --resume writes it again
    throw;
  }
  published_ = true;
  fs::remove_all(partial(), error);  // tried once more when all files are closed
  static_cast<void>(losa::detail::flush_directory(out_.c_str()));
}

}  // namespace tool
