/**
 * The command line: every command, with its options and help. Builds it, runs nothing.
 *
 * Only commander is loaded here; each command loads what it needs when it runs.
 */
import type { Command } from 'commander';
import { registerBackup } from './backup.js';
import { registerCheckpoint } from './checkpoint.js';
import { registerCheckpoints } from './checkpoints.js';
import { registerClone } from './clone.js';
import { registerCompact } from './compact.js';
import { registerCompletion } from './completion.js';
import { registerConsole } from './console.js';
import { registerDiff } from './diff.js';
import { registerDisk } from './disk.js';
import { registerDoctor } from './doctor.js';
import { registerExport } from './export.js';
import { registerInfo } from './info.js';
import { registerList } from './list.js';
import { registerMan } from './man.js';
import { registerMount } from './mount.js';
import { registerPause } from './pause.js';
import { registerProtect } from './protect.js';
import { registerPrune } from './prune.js';
import { registerReceive } from './receive.js';
import { registerRecover } from './recover.js';
import { registerRestore } from './restore.js';
import { registerResume } from './resume.js';
import { registerRetry } from './retry.js';
import { registerRm } from './rm.js';
import { registerRun } from './run.js';
import { registerShow } from './show.js';
import { registerStop } from './stop.js';
import { registerUmount } from './umount.js';
import { registerVerify } from './verify.js';
import { registerVersion } from './version.js';
import { rootProgram } from './root_program.js';

/** The whole command line. Never exits by itself: errors are thrown. */
export function buildProgram(): Command {
  const program = rootProgram();
  for (const register of [
    registerRun,
    registerList,
    registerInfo,
    registerConsole,
    registerPause,
    registerResume,
    registerRetry,
    registerStop,
    registerCheckpoint,
    registerRestore,
    registerClone,
    registerCheckpoints,
    registerShow,
    registerDiff,
    registerVerify,
    registerRm,
    registerPrune,
    registerExport,
    registerCompact,
    registerDisk,
    registerBackup,
    registerProtect,
    registerRecover,
    registerReceive,
    registerMount,
    registerUmount,
    registerDoctor,
    registerVersion,
    registerCompletion,
    registerMan,
  ]) {
    register(program);
  }
  return program;
}
