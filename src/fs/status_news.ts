/** What somebody who waits for the status of a VM waits for. Its numbers change all the time. */

const told = ['state', 'error', 'lastError', 'exit', 'suspended', 'trackedId'];

/** The part of a {@link VmStatus} that says that something has happened: compared with an earlier one. */
export function statusNews(status: object): object {
  const { save, restore, ...rest } = status as Record<string, unknown>;
  return {
    ...Object.fromEntries(told.map((name) => [name, rest[name]])),
    save: idOf(save),
    restore: idOf(restore),
    restored: restore !== undefined && (restore as { done?: boolean }).done,
  };
}

function idOf(work: unknown): unknown {
  return typeof work === 'object' && work !== null && 'id' in work ? work.id : undefined;
}
