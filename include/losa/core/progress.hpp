#pragma once
// How long work tells where it is. The callback returns false to stop: the work then ends at the next point where its
// state is complete, and reports that it was stopped.

#include <cstddef>
#include <functional>
#include <string_view>

namespace losa::inline v0 {

struct ProgressEvent {
  std::string_view phase;  // "calibrate", "prune", "train", …
  std::size_t step = 0;    // schedule step, from 1; 0 where there are none
  std::size_t steps = 0;   // schedule steps in all
  std::size_t done = 0;    // of `total`, within the phase
  std::size_t total = 0;
  std::size_t tokens = 0;  // processed in this phase so far, 0 if meaningless
  double loss = 0;         // last training loss, 0 outside training
};

/// Empty = silent. Returns false to stop.
using Progress = std::function<bool(const ProgressEvent&)>;

namespace detail {
inline bool report(const Progress& progress, const ProgressEvent& event) { return !progress || progress(event); }
}  // namespace detail
}  // namespace losa::inline v0
