/** The part of fuse-native 2.2.6 that fuse_native.ts uses; the package has no types of its own. */
declare module 'fuse-native' {
  namespace Fuse {
    type Callback<T extends unknown[] = []> = (result: number, ...values: T) => void;

    interface Stat {
      mode: number;
      ino: number;
      size: number;
      blocks: number;
      nlink: number;
      uid: number;
      gid: number;
      /** Times in ms since the epoch. */
      atime: number;
      mtime: number;
      ctime: number;
      blksize: number;
    }

    /** Counts are cut to 32 bits. */
    interface Statfs {
      bsize: number;
      frsize: number;
      blocks: number;
      bfree: number;
      bavail: number;
      files: number;
      ffree: number;
      favail: number;
      namemax: number;
    }

    /** Results are negative errno numbers; of a read or write, its bytes. Each callback is called once. */
    interface Requests {
      getattr(path: string, callback: Callback<[Stat?]>): void;
      readdir(path: string, callback: Callback<[string[]?, Stat[]?]>): void;
      readlink(path: string, callback: Callback<[string?]>): void;
      statfs(path: string, callback: Callback<[Statfs?]>): void;
      open(path: string, flags: number, callback: Callback<[number?]>): void;
      read(
        path: string,
        handle: number,
        into: Buffer,
        length: number,
        position: number,
        callback: Callback,
      ): void;
      write(
        path: string,
        handle: number,
        from: Buffer,
        length: number,
        position: number,
        callback: Callback,
      ): void;
      fsync(path: string, dataOnly: number, handle: number, callback: Callback): void;
      truncate(path: string, bytes: number, callback: Callback): void;
      ftruncate(path: string, handle: number, bytes: number, callback: Callback): void;
      release(path: string, handle: number, callback: Callback): void;
      mkdir(path: string, mode: number, callback: Callback): void;
      rmdir(path: string, callback: Callback): void;
      rename(path: string, to: string, callback: Callback): void;
      getxattr(path: string, name: string, position: number, callback: Callback<[Buffer?]>): void;
      listxattr(path: string, callback: Callback<[string[]?]>): void;
    }
  }

  class Fuse {
    constructor(directory: string, requests: Fuse.Requests, options: { timeout: false });
    mount(callback: (error?: Error | null) => void): void;
    unmount(callback: (error?: Error | null) => void): void;
    /** Called by unmount() before it gives back what the mount held. */
    static unmount: (directory: string, callback: (error: Error | null) => void) => void;
    /** The argument for libfuse: "-o" and a comma list. */
    _fuseOptions(): string;
    _op_getxattr(
      signal: (result: number, memory: ArrayBufferLike) => void,
      path: string,
      name: string,
      value: Buffer,
      position: number,
    ): void;
    _op_listxattr(
      signal: (result: number, memory: ArrayBufferLike) => void,
      path: string,
      list: Buffer,
    ): void;
  }

  export default Fuse;
}
