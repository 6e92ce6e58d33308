#include "progress_bar.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace tool {

std::string clock_text(double seconds) {
  const auto s = static_cast<unsigned long>(std::max(0.0, seconds) + 0.5);
  char text[32];
  if (s >= 3600) {
    std::snprintf(text, sizeof text, "%lu:%02lu:%02lu", s / 3600, s / 60 % 60, s % 60);
  } else {
    std::snprintf(text, sizeof text, "%lu:%02lu", s / 60, s % 60);
  }
  return text;
}

ProgressBar::ProgressBar() : terminal_(isatty(STDERR_FILENO) != 0) {}
ProgressBar::~ProgressBar() { finish(); }

void ProgressBar::finish() {
  if (open_) std::fputs("\n", stderr);
  open_ = false;
}

void ProgressBar::show(const losa::ProgressEvent& event) {
  if (!terminal_) return;
  const auto now = Clock::now();
  const bool fresh = event.phase != phase_ || event.step != step_;
  if (fresh) {
    finish();
    phase_ = std::string(event.phase);
    step_ = event.step;
    first_done_ = event.done;
    first_tokens_ = event.tokens;
    start_ = now;
  } else if (event.done != event.total && now - drawn_ < std::chrono::milliseconds(100)) {
    return;
  }
  drawn_ = now;
  open_ = true;

  const double seconds = std::chrono::duration<double>(now - start_).count();
  const double share = event.total == 0 ? 1.0 : static_cast<double>(event.done) / static_cast<double>(event.total);
  std::string bar;
  for (int i = 0; i < 20; ++i) bar += share * 20 > i + 0.5 ? "█" : "░";

  std::string line = "\r" + phase_;
  line.resize(std::max<std::size_t>(line.size(), 20), ' ');
  char text[96];
  if (event.steps > 1) {
    std::snprintf(text, sizeof text, " step %zu/%zu", event.step, event.steps);
    line += text;
  }
  std::snprintf(text, sizeof text, "  %s %3.0f %%", bar.c_str(), 100 * share);
  line += text;
  if (event.loss != 0) {
    std::snprintf(text, sizeof text, "  loss %.3f", event.loss);
    line += text;
  }
  const double done = static_cast<double>(event.done - first_done_);
  if (event.tokens > first_tokens_ && seconds > 0) {
    std::snprintf(text, sizeof text, "  %.0f tok/s", static_cast<double>(event.tokens - first_tokens_) / seconds);
    line += text;
  }
  if (done > 0) line += "  left " + clock_text(seconds / done * static_cast<double>(event.total - event.done));
  line += "\033[K";
  std::fputs(line.c_str(), stderr);
  if (event.done == event.total) finish();
}

}  // namespace tool
