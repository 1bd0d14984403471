// Says hello and powers off with reason 0.
#include "bare.h"

void bareMain(uint64_t hart) {
  (void)hart;
  print("ckptfs-bare: hello\n");
  powerOff(0);
}
