#pragma once
// Version of losa, and the inline namespace that keeps two versions in one program apart.

#define LOSA_VERSION_MAJOR 0
#define LOSA_VERSION_MINOR 1
#define LOSA_VERSION_PATCH 0
#define LOSA_VERSION_STRING "0.1.0"

namespace losa::inline v0 {

/// The version of the headers that this translation unit was compiled with, as numbers.
struct Version {
  int major = LOSA_VERSION_MAJOR;
  int minor = LOSA_VERSION_MINOR;
  int patch = LOSA_VERSION_PATCH;
};

}  // namespace losa::inline v0
