#include "core/hash.h"

#include <xxhash.h>
#if defined(__x86_64__) && __has_include(<xxh_x86dispatch.h>)
#include <xxh_x86dispatch.h>
#define PARITRACE_HASH_IS_DISPATCHED 1
#endif

namespace paritrace {
namespace {

XXH128_hash_t Hash(const void* bytes, std::size_t size) {
#if defined(PARITRACE_HASH_IS_DISPATCHED)
  // The widest vectors that the CPU has: three times as fast as those every CPU has. The library looks for them on its
  // first long input, without a lock.
  static const bool looked = [] {
    const char some[1024] = {};
    return XXH3_128bits_dispatch(some, sizeof some).low64 != 0;
  }();
  (void)looked;
  return XXH3_128bits_dispatch(bytes, size);
#else
  return XXH3_128bits(bytes, size);
#endif
}

}  // namespace

std::string HashBytes(std::span<const std::byte> bytes) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, Hash(bytes.data(), bytes.size()));
  std::string text = "xxh3:";
  for (const unsigned char byte : canonical.digest) {
    text += "0123456789abcdef"[byte >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
  return text;
}

}  // namespace paritrace
