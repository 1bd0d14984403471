// libfuse 3, low level: the one place that says which version of its interface is meant.
#pragma once

#define FUSE_USE_VERSION 35
#include <fuse3/fuse_lowlevel.h>
