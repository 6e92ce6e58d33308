#pragma once
// A progress bar on standard error where that is a terminal; nothing where it is not.
//
//   train      step 3/5  ████████░░░░░░░░░░░░  41 %  loss 3.412  412 tok/s  left 2:10

#include <chrono>
#include <losa/core/progress.hpp>
#include <string>

namespace tool {

class ProgressBar {
 public:
  ProgressBar();
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  void show(const losa::ProgressEvent& event);
  /// Ends the line, so that other text can follow.
  void finish();

 private:
  using Clock = std::chrono::steady_clock;

  bool terminal_;
  std::string phase_;
  std::size_t step_ = 0;
  std::size_t first_done_ = 0;
  std::size_t first_tokens_ = 0;
  Clock::time_point start_;
  Clock::time_point drawn_;
  bool open_ = false;
};

/// m:ss, or h:mm:ss from an hour on.
std::string clock_text(double seconds);

}  // namespace tool
