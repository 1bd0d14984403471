/** A symbolic link inside the tree; its target is relative. */
import { FsNode, type Attributes } from './node.js';

export class Symlink extends FsNode {
  readonly kind = 'symlink';

  constructor(
    readonly path: string,
    readonly timeMs: number,
  ) {
    super();
  }

  override attributes(): Promise<Attributes> {
    const bytes = Buffer.byteLength(this.path);
    return Promise.resolve({ bytes, blocks: 0, nlink: 1, timeMs: this.timeMs });
  }

  override target(): Promise<string> {
    return Promise.resolve(this.path);
  }
}
