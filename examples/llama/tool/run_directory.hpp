#pragma once
// The output directory of a run. Work happens in OUT/.partial/; only a finished result is moved up, entry by entry and
// report.json last, so that a run killed at any moment leaves either nothing that looks finished, or all of it.
//
//   RunDirectory run("tiny-70", resume);            // refuses what must not be touched, takes the lock
//   ... write run.state(), run.staging() ...
//   run.publish();                                  // moves the staged entries up, removes .partial

#include <filesystem>

namespace tool {

class RunDirectory {
 public:
  /// Throws UsageError for a non-empty directory without `resume` or with something else in it, and for a directory
  /// that another process works in; losa::FileError if it cannot be made or flushed. Where the file system has no locks
  /// or no flushing, a note says so and the run goes on without.
  RunDirectory(std::filesystem::path out, bool resume);
  /// Gives up the lock. A run that never saved a state, and of which nothing was published, leaves nothing. Files that
  /// were made in scratch() should be closed by now: some file systems cannot remove open ones.
  ~RunDirectory();
  RunDirectory(const RunDirectory&) = delete;
  RunDirectory& operator=(const RunDirectory&) = delete;

  const std::filesystem::path& out() const { return out_; }
  /// Where the state of the run is saved.
  std::filesystem::path state() const { return partial() / "state.safetensors"; }
  /// Where the result is written before it is published; empty at first.
  std::filesystem::path staging() const { return partial() / "result"; }
  /// Where files without a name may be made that do not outlive the process.
  std::filesystem::path scratch() const { return partial(); }
  std::filesystem::path report() const { return out_ / "report.json"; }

  /// True if an earlier run has finished here.
  bool complete() const;
  bool has_state() const;
  /// The run cannot go on with its arguments: its state goes with it, as if nothing had been saved.
  void abandon() { abandoned_ = true; }
  /// Makes staging() anew, empty.
  void clear_staging() const;
  /// Moves everything in staging() into the output directory and removes OUT/.partial.
  void publish();

 private:
  std::filesystem::path partial() const { return out_ / ".partial"; }
  void make_and_lock();
  /// True if something was published, whole or in part.
  bool holds_more_than_partial() const;
  /// Removes the directories that were made here, as far as they are empty.
  void remove_made() const;
  /// Removes what a run leaves that was killed after its report was moved up and before .partial was gone.
  void remove_leftovers() const;

  std::filesystem::path out_;
  std::filesystem::path made_;  // the first directory on the way to out_ that was made here; empty if none was
  bool published_ = false;
  bool abandoned_ = false;
  int lock_ = -1;
};

}  // namespace tool
