// What every part of the C interface does: no exception leaves, every struct is read only as far as its caller's size says.
#pragma once

#include <dlfcn.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <new>
#include <string>

#include "../include/farthing.h"
#include "error.h"
#include "tokenizer/error.h"

namespace farthing::capi {

// Of the last call on this thread that failed.
inline std::string& last_error() {
  static thread_local std::string text;
  return text;
}

template <class F>
farthing_status guarded(F&& f) {
  try {
    f();
    return FARTHING_OK;
  } catch (const Error& error) {
    last_error() = error.what();
    return static_cast<farthing_status>(error.status());
  } catch (const TokenizerError& error) {
    last_error() = error.what();
    return FARTHING_BUNDLE;
  } catch (const std::bad_alloc&) {
    last_error() = "memory is exhausted, expected room for the cache and the weights; open with a shorter context";
    return FARTHING_INTERNAL;
  } catch (const std::exception& error) {
    last_error() = error.what();
    return FARTHING_INTERNAL;
  }
}

inline void need(const void* pointer, const char* what) {
  if (pointer == nullptr) refuse(Status::request, what, "NULL", "a pointer", "pass one");
}

// Copies as much of the caller's struct as both sides know over the defaults.
template <class T>
T taken(const T* given, T defaults) {
  if (given == nullptr) return defaults;
  if (given->size < sizeof(std::size_t) || given->size > 4096) {
    refuse(Status::request, "size of a struct", std::to_string(given->size), "its sizeof",
           "initialise it with the _INIT macro");
  }
  std::memcpy(&defaults, given, std::min(given->size, sizeof(T)));
  return defaults;
}

template <class T>
void give(T* out, T value) {
  if (out == nullptr) return;
  const std::size_t size = std::min(out->size, sizeof(T));
  value.size = out->size;
  std::memcpy(out, &value, size);
}

// libfarthing_ops.so in the folder of the library this function is in; empty when there is none.
inline std::string ops_beside() {
  Dl_info info;
  if (dladdr(reinterpret_cast<const void*>(&farthing_open), &info) == 0 || info.dli_fname == nullptr) return {};
  const auto path = std::filesystem::absolute(info.dli_fname).parent_path() / "libfarthing_ops.so";
  return std::filesystem::exists(path) ? path.string() : std::string{};
}

// Structs in an array may be of another version, and so of another size. `what`: one of them, for the message.
template <class T>
T* next_struct(T* at, const char* what, const char* macro) {
  if (at->size < sizeof(std::size_t) || at->size > 4096) {
    refuse(Status::request, std::string("size of ") + what, std::to_string(at->size), "its sizeof",
           std::string("initialise each with ") + macro);
  }
  return reinterpret_cast<T*>(reinterpret_cast<std::uintptr_t>(at) + at->size);
}

}  // namespace farthing::capi
