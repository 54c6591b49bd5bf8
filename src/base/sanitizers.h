// LONGHAUL_ADDRESS_SANITIZER, LONGHAUL_THREAD_SANITIZER: defined where the compiler instruments for it. GCC says so by
// a macro of its own, clang by a feature.
#pragma once

#if defined(__SANITIZE_ADDRESS__)
#define LONGHAUL_ADDRESS_SANITIZER
#endif
#if defined(__SANITIZE_THREAD__)
#define LONGHAUL_THREAD_SANITIZER
#endif
#if defined(__has_feature)
#if __has_feature(address_sanitizer) && !defined(LONGHAUL_ADDRESS_SANITIZER)
#define LONGHAUL_ADDRESS_SANITIZER
#endif
#if __has_feature(thread_sanitizer) && !defined(LONGHAUL_THREAD_SANITIZER)
#define LONGHAUL_THREAD_SANITIZER
#endif
#endif
