// Names for threads, as `top -H`, gdb and crash reports show them (at most 15 characters).
#pragma once

#include <pthread.h>

namespace ckptfs {

inline void nameThread(const char* name) {
  pthread_setname_np(pthread_self(), name);
}

}  // namespace ckptfs
