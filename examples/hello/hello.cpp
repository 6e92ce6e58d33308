#include <cstdio>
#include <losa/losa.hpp>

int main() {
  float weight[] = {3, -1, 2, 0.5f, 0.25f, 4, -2, 1};  // (out, in)
  float x[] = {1, 2, 3, 4}, y[2];                      // (tokens, in), (tokens, out)
  const auto w = losa::view(weight, 2, 4);

  losa::ColumnNorms norms(4);  // statistics of any number of batches
  norms.add(losa::view(x, 1, 4));
  losa::Mask mask = losa::select(losa::Wanda{norms}, w, losa::NofM{2, 4});
  auto packed = losa::pack(w, mask);  // only kept weights
  losa::spmm(packed, losa::view(x, 1, 4), losa::view(y, 1, 2));
  std::printf("sparsity %.2f, y = (%g, %g)\n", mask.sparsity(), double{y[0]}, double{y[1]});
}
