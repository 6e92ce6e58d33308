#pragma once
// Times contenders against each other: each in turn, several times over, so that a slow moment of the machine meets
// all.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "contender.hpp"

namespace compare {

struct Times {
  double median = 0;  // seconds of one product
  double best = 0;
  double worst = 0;
};

/// Every turn lasts `turn_seconds` or one product, whichever is longer; an untimed turn comes first.
inline std::vector<Times> measure(const std::vector<Contender*>& contenders, std::size_t repeats, double turn_seconds) {
  const std::size_t n = contenders.size();
  std::vector<std::size_t> calls(n, 1);
  for (std::size_t i = 0; i < n; ++i) {
    double one = contenders[i]->seconds(1);
    if (one < 10 * turn_seconds) one = contenders[i]->seconds(1);  // the first call of all may be far from the rest
    calls[i] = static_cast<std::size_t>(std::clamp(std::ceil(turn_seconds / one), 1.0, 10000.0));
  }
  std::vector<std::vector<double>> seconds(n);
  for (std::size_t repeat = 0; repeat < repeats; ++repeat)
    for (std::size_t i = 0; i < n; ++i)
      seconds[i].push_back(contenders[i]->seconds(calls[i]) / static_cast<double>(calls[i]));
  std::vector<Times> times;
  for (std::vector<double>& s : seconds) {
    std::ranges::sort(s);
    times.push_back({.median = s[s.size() / 2], .best = s.front(), .worst = s.back()});
  }
  return times;
}

}  // namespace compare
