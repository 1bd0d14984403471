/** A store at the far end of ssh as a target. One request at a time. */
import type { Store } from '../checkpoint/store.js';
import type { Dialled, SshDestination, SshOptions } from './dial.js';
import { FarCheckpoint } from './far_checkpoint.js';
import type { ListedCheckpoint } from './messages.js';
import type { Parcel } from './parcel.js';
import { receiveParcel } from './receive.js';
import { Reception } from './reception.js';
import { sendParcel } from './send.js';
import { SshLink } from './ssh.js';
import type { Judge, Sent, Target, TargetInfo, TransferHooks } from './target.js';

export class SshTarget implements Target {
  private constructor(
    private readonly link: SshLink,
    readonly info: TargetInfo,
  ) {}

  static async open(
    destination: SshDestination,
    options: SshOptions = {},
    signal?: AbortSignal,
    dialled?: Dialled,
  ): Promise<SshTarget> {
    const { link, hello } = await SshLink.open(destination, options, signal, dialled);
    const { program, store, freeBytes = 0 } = hello;
    const target = new SshTarget(link, { program, store: store ?? destination.path, freeBytes });
    // Without a store the far end says why not.
    if (store === undefined) {
      await target
        .#explaining(() => link.connection.expect())
        .finally(() => target[Symbol.asyncDispose]());
    }
    return target;
  }

  list(vm?: string): Promise<ListedCheckpoint[]> {
    return this.#explaining(async () => {
      const { connection } = this.link;
      await connection.send({ type: 'list', ...(vm === undefined ? {} : { vm }) });
      return (await connection.expect('checkpoints')).checkpoints;
    });
  }

  send(parcel: Parcel, hooks: TransferHooks = {}, judge?: Judge): Promise<Sent> {
    return this.#explaining(() => sendParcel(this.link.connection, parcel, hooks, judge));
  }

  remove(vm: string, name: string, id: string): Promise<void> {
    return this.#explaining(async () => {
      const { connection } = this.link;
      await connection.send({ type: 'remove', vm, name, id });
      await connection.expect('removed');
    });
  }

  forget(vm: string): Promise<void> {
    return this.#explaining(async () => {
      const { connection } = this.link;
      await connection.send({ type: 'forget', vm });
      await connection.expect('forgotten');
    });
  }

  /** Takes a checkpoint from there into a store here. NOT_FOUND, EXISTS, NO_SPACE, DAMAGED. */
  fetch(vm: string, name: string, into: Store, hooks: TransferHooks = {}): Promise<void> {
    return this.#explaining(async () => {
      const { connection } = this.link;
      await connection.send({ type: 'fetch', vm, name });
      const offer = await connection.expect('offer');
      const reception = await Reception.begin(into, offer, { of: { vm, name } });
      await receiveParcel(connection, reception, hooks);
    });
  }

  /** Opens a checkpoint there, to read of it what is needed; nothing else can be asked for then. */
  checkpoint(vm: string, name: string): Promise<FarCheckpoint> {
    return this.#explaining(() => FarCheckpoint.open(this.link.connection, vm, name));
  }

  /** A failure of the connection, with what ssh says of it. */
  explain(failure: unknown): Promise<unknown> {
    return this.link.explain(failure);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.link[Symbol.asyncDispose]();
  }

  async #explaining<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      throw await this.link.explain(error);
    }
  }
}
