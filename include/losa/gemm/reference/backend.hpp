#pragma once
// The products written down as their formulas, every sum in double and in order of rising index, rounded to float once
// at the end. The oracle for every other backend, and what runs where nothing else does.
// Cost 2·kept·tokens flops and one walk over the mask per token.

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include <losa/core/executor.hpp>
#include <losa/core/types.hpp>
#include <losa/core/view.hpp>
#include <losa/gemm/backend.hpp>

namespace losa::inline v0::detail::reference {

/// Calls f(column, index of the value) for every kept weight of row r.
template <class Function>
void for_each_kept(const PackedLayout& w, std::size_t r, Function&& f) {
  for (std::size_t t = 0; t < w.tiles; ++t) {
    const std::size_t tile = r / tile_rows * w.tiles + t;
    const std::uint64_t* const words = w.words + tile * tile_rows;
    std::size_t k = w.offsets[tile];
    for (std::size_t i = 0; i < r % tile_rows; ++i) k += static_cast<std::size_t>(std::popcount(words[i]));
    for (std::uint64_t word = words[r % tile_rows]; word != 0; word &= word - 1)
      f(t * tile_cols + static_cast<std::size_t>(std::countr_zero(word)), k++);
  }
}

template <class WeightsType>
void spmm(const PackedLayout& w, const WeightsType& weights, MatrixView<const float> x, MatrixView<float> y,
          const float* bias, bool accumulate, ExecutorRef executor) {
  executor.parallel_for(w.row_blocks, [&](std::size_t b) {
    const std::size_t first = b * tile_rows;
    const std::size_t rows = std::min(tile_rows, w.rows - first);
    std::vector<double> sums(tile_rows * x.rows);  // (row, token)
    for (std::size_t t = 0; t < w.tiles; ++t) {
      auto cursor = weights.begin(w, b, t);
      for (std::size_t i = 0; i < rows; ++i) {
        std::size_t j = 0;
        for (std::uint64_t word = w.words[(b * w.tiles + t) * tile_rows + i]; word != 0; word &= word - 1, ++j) {
          const std::size_t c = t * tile_cols + static_cast<std::size_t>(std::countr_zero(word));
          const auto value = static_cast<double>(cursor.at(i, j));
          for (std::size_t token = 0; token < x.rows; ++token)
            sums[i * x.rows + token] += value * static_cast<double>(x(token, c));
        }
        cursor.advance(j);
      }
    }
    for (std::size_t i = 0; i < rows; ++i)
      for (std::size_t token = 0; token < x.rows; ++token) {
        double sum = sums[i * x.rows + token];
        if (bias != nullptr) sum += static_cast<double>(bias[first + i]);
        if (accumulate) sum += static_cast<double>(y(token, first + i));
        y(token, first + i) = static_cast<float>(sum);
      }
  });
}

template <class Element>
void spmm_list(const ListLayout& w, const ListWeights<Element>& weights, MatrixView<const float> x, MatrixView<float> y,
               const float* bias, bool accumulate, ExecutorRef executor) {
  executor.parallel_for((w.rows + tile_rows - 1) / tile_rows, [&](std::size_t b) {
    const std::size_t first = b * tile_rows;
    std::vector<double> sums(tile_rows * x.rows);  // (row, token)
    for (std::size_t range = 0; range < w.ranges; ++range) {
      const std::size_t tile = b * w.ranges + range;
      std::size_t k = w.offsets[tile];
      for (std::size_t i = 0; i < tile_rows; ++i)
        for (std::size_t n = 4 * list_span<ListPart::whole>(w.counts + (tile * tile_rows + i) * 2).count; n != 0;
             --n, ++k) {
          const std::size_t c = range * ListLayout::range_cols + w.col_indices[k];
          double value = 0;
          if constexpr (std::is_same_v<Element, std::int8_t>) {
            value = static_cast<double>(static_cast<float>(weights.values[k]) * weights.scales[first + i]);
          } else {
            value = static_cast<double>(widen(weights.values[k]));
          }
          for (std::size_t token = 0; token < x.rows; ++token)
            sums[i * x.rows + token] += value * static_cast<double>(x(token, c));
        }
    }
    for (std::size_t i = 0; i < std::min(tile_rows, w.rows - first); ++i)
      for (std::size_t token = 0; token < x.rows; ++token) {
        double sum = sums[i * x.rows + token];
        if (bias != nullptr) sum += static_cast<double>(bias[first + i]);
        if (accumulate) sum += static_cast<double>(y(token, first + i));
        y(token, first + i) = static_cast<float>(sum);
      }
  });
}

inline void spmm_transposed(const PackedLayout& w, const float* values, MatrixView<const float> g, MatrixView<float> dx,
                            bool accumulate, ExecutorRef executor) {
  executor.parallel_for(g.rows, [&](std::size_t t) {
    std::vector<double> sum(w.cols);
    for (std::size_t r = 0; r < w.rows; ++r)
      for_each_kept(w, r, [&](std::size_t c, std::size_t k) {
        sum[c] += static_cast<double>(values[k]) * static_cast<double>(g(t, r));
      });
    for (std::size_t c = 0; c < w.cols; ++c) {
      if (accumulate) sum[c] += static_cast<double>(dx(t, c));
      dx(t, c) = static_cast<float>(sum[c]);
    }
  });
}

inline void sddmm(const PackedLayout& w, const float* base, float scale, MatrixView<const float> g,
                  MatrixView<const float> x, float* values, ExecutorRef executor) {
  executor.parallel_for(w.row_blocks, [&](std::size_t b) {
    for (std::size_t r = b * tile_rows; r < std::min(w.rows, (b + 1) * tile_rows); ++r)
      for_each_kept(w, r, [&](std::size_t c, std::size_t k) {
        double sum = 0;
        for (std::size_t t = 0; t < g.rows; ++t) sum += static_cast<double>(g(t, r)) * static_cast<double>(x(t, c));
        sum *= static_cast<double>(scale);
        if (base != nullptr) sum += static_cast<double>(base[k]);
        values[k] = static_cast<float>(sum);
      });
  });
}

inline const Backend& backend() noexcept {
  static constexpr Backend table{
      .name = "reference",
      .supported = []() noexcept { return true; },
      .spmm_f32 = spmm<FloatWeights<float>>,
      .spmm_bf16 = spmm<FloatWeights<bf16>>,
      .spmm_f16 = spmm<FloatWeights<f16>>,
      .spmm_int8 = spmm<Int8Weights>,
      .spmm_int4 = spmm<Int4Weights>,
      .list_f32 = spmm_list<float>,
      .list_bf16 = spmm_list<bf16>,
      .list_f16 = spmm_list<f16>,
      .list_int8 = spmm_list<std::int8_t>,
      .spmm_transposed = spmm_transposed,
      .sddmm = sddmm,
  };
  return table;
}

}  // namespace losa::inline v0::detail::reference
