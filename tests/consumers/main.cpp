// What a program that consumes losa needs to compile and run; io only where the consumer links losa::io.
#include <losa/losa.hpp>
#if defined(CONSUMER_USES_IO)
#include <losa/io.hpp>
#endif

#include <cstdio>

int main() {
  const losa::Random random{.seed = 1};
  std::puts(random.uniform(0) < 1.0 ? "losa " LOSA_VERSION_STRING : "impossible");
}
