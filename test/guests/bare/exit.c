// Powers off with the SRST reason that `reason=` names, 1 without one.
#include "bare.h"

void bareMain(uint64_t hart) {
  (void)hart;
  powerOff(argument("reason=", 1));
}
