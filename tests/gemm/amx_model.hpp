#pragma once
// The tile registers of AMX in software, after the definition of the instructions in Intel's manual (volume 2,
// TDPBF16PS and TDPBSSD): amx::TargetOn<AmxModel> is a target that runs wherever avx512_bf16 does. What the
// instructions would refuse is counted.

#include <losa/gemm/bitmask/amx.hpp>
#if defined(LOSA_AVX512)

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <losa/gemm.hpp>
#include <losa/gemm/known_backends.hpp>

LOSA_AVX512_BEGIN

namespace test {

class AmxModel {
 public:
  static constexpr const char* name = "amx_model";
  static bool supported() noexcept { return true; }
  /// Times that an instruction would have faulted, or tiles were configured twice on a thread.
  static inline std::atomic<int> faults{0};

  /// ldtilecfg.
  explicit AmxModel(const losa::detail::amx::TileConfig& config = losa::detail::amx::whole_tiles) {
    expect(++configured_ == 1);
    expect(config.palette == 1 && config.start_row == 0);
    for (std::uint8_t byte : config.reserved) expect(byte == 0);
    for (std::size_t i = 0; i < 16; ++i) {
      const std::size_t rows = config.rows[i];
      const std::size_t bytes = config.row_bytes[i];
      expect(i < 8 ? rows <= 16 && bytes <= 64 && (rows == 0) == (bytes == 0) : rows == 0 && bytes == 0);
      if (i < 8) registers_[i] = {.rows = rows, .bytes = bytes, .data = {}};
    }
  }
  ~AmxModel() { --configured_; }
  AmxModel(const AmxModel&) = delete;
  AmxModel& operator=(const AmxModel&) = delete;

  template <int T>
  void zero() {
    std::memset(used<T>().data, 0, sizeof used<T>().data);
  }
  template <int T>
  void load(const void* from) {
    Register& r = used<T>();
    std::memset(r.data, 0, sizeof r.data);
    for (std::size_t i = 0; i < r.rows; ++i) std::memcpy(r.data[i], static_cast<const char*>(from) + i * 64, r.bytes);
  }
  template <int T>
  void store(void* to) {
    Register& r = used<T>();
    for (std::size_t i = 0; i < r.rows; ++i) std::memcpy(static_cast<char*>(to) + i * 64, r.data[i], r.bytes);
  }
  template <int C, int A, int B>
  void multiply_bf16() {
    check_operands<C, A, B>();
    // "DAZ=FTZ=1, RNE rounding, MXCSR neither consulted nor updated".
    const unsigned mode = _mm_getcsr();
    _mm_setcsr(0x9fc0);
    add_pairs(used<C>(), used<A>(), used<B>());
    _mm_setcsr(mode);
  }
  template <int C, int A, int B>
  void multiply_int8() {
    check_operands<C, A, B>();
    Register& c = used<C>();
    for (std::size_t m = 0; m < c.rows; ++m) {
      std::uint32_t sums[16];
      std::memcpy(sums, c.data[m], 64);
      for (std::size_t k = 0; k < used<A>().bytes / 4; ++k)
        for (std::size_t n = 0; n < 16; ++n)
          for (std::size_t i = 0; i < 4; ++i)
            sums[n] += static_cast<std::uint32_t>(static_cast<std::int8_t>(used<A>().data[m][4 * k + i]) *
                                                  static_cast<std::int8_t>(used<B>().data[k][4 * n + i]));
      std::memcpy(c.data[m], sums, c.bytes);
    }
  }

 private:
  struct Register {
    std::size_t rows;
    std::size_t bytes;
    alignas(64) unsigned char data[16][64];
  };

  static void expect(bool allowed) { faults += !allowed; }

  template <int T>
  Register& used() {
    static_assert(T >= 0 && T < 8);
    expect(registers_[T].rows != 0);
    return registers_[T];
  }
  template <int C, int A, int B>
  void check_operands() {
    static_assert(C != A && C != B && A != B);
    expect(used<A>().rows == used<C>().rows && used<B>().bytes == used<C>().bytes &&
           used<A>().bytes == 4 * used<B>().rows);
  }

  // For every row of C the even and the odd columns of A have sums of their own, each product added by an FMA; the two
  // sums are added, and then to C. Not inlined, so that no arithmetic leaves the rounding mode.
  [[gnu::noinline]] LOSA_AVX512 static void add_pairs(Register& c, const Register& a, const Register& b) {
    for (std::size_t m = 0; m < c.rows; ++m) {
      __m512 even = _mm512_setzero_ps();
      __m512 odd = _mm512_setzero_ps();
      for (std::size_t k = 0; k < a.bytes / 4; ++k) {
        std::uint32_t pair;
        std::memcpy(&pair, a.data[m] + 4 * k, 4);
        const __m512i pairs = _mm512_load_si512(b.data[k]);
        even = _mm512_fmadd_ps(_mm512_set1_ps(std::bit_cast<float>(pair << 16)),
                               _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)), even);
        odd = _mm512_fmadd_ps(
            _mm512_set1_ps(std::bit_cast<float>(pair & 0xffff0000u)),
            _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000u)))), odd);
      }
      alignas(64) float sums[16];
      _mm512_store_ps(sums, _mm512_add_ps(_mm512_load_ps(c.data[m]), _mm512_add_ps(even, odd)));
      std::memcpy(c.data[m], sums, c.bytes);
    }
  }

  static inline thread_local int configured_ = 0;
  Register registers_[8];
};

inline const losa::Backend& amx_model() { return losa::detail::backend_of<losa::detail::amx::TargetOn<AmxModel>>(); }

}  // namespace test
LOSA_AVX512_END
#endif
