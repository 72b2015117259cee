/**
 * What the panel knows and does, without its looks: the run in view, the question being prepared, the history, the last error.
 * One model a JupyterLab window. It changes only through its methods and tells of every change by `changed`.
 */

import { Signal, type ISignal } from '@lumino/signaling';

import type { Api, Command } from './api.js';
import { familyOf, type BranchNode } from './branches.js';
import type { AuditReport, ChosenImage, RunSummary, ServerStatus } from './events.js';
import { Follower } from './follower.js';
import { isBusy } from './state.js';
import type { RunSummaryKey, Surroundings } from './surroundings.js';

export type Page = 'run' | 'history';

const FAMILY_LIMIT = 500;
const HISTORY_LIMIT = 100;

export class PanelModel {
  constructor(
    readonly api: Api,
    private readonly _around: Surroundings
  ) {}

  page: Page = 'run';
  status: ServerStatus | null = null;
  /** Why there is no server extension to talk to; null while not known or all is well. */
  unreachable: string | null = null;
  run: Follower | null = null;
  /** The images chosen for the next question. */
  images: readonly ChosenImage[] = [];
  history: readonly RunSummary[] | null = null;
  search = '';
  family: BranchNode | null = null;
  showFamily = false;
  audit: AuditReport | 'running' | null = null;
  /** What went wrong last, for a person; null once dismissed. */
  error: string | null = null;
  /** A word on what was done, for a person. */
  notice: string | null = null;
  starting = false;

  get changed(): ISignal<this, void> {
    return this._changed;
  }

  /** A number that changes with every change: for React's external store. */
  get version(): number {
    return this._version;
  }

  async connect(): Promise<void> {
    try {
      this.status = await this.api.status();
      this.unreachable = null;
    } catch (error) {
      this.unreachable = message(error);
    }
    this.touch();
  }

  show(page: Page): void {
    this.page = page;
    this.touch();
    if (page === 'history') {
      void this.find(this.search);
    }
  }

  addImages(images: readonly ChosenImage[]): void {
    this.images = [...this.images, ...images];
    this.page = 'run';
    if (this.run !== null && !isBusy(this.run.view)) {
      this._follow(null); // images belong to a new run: a run's images are given with its first question
    }
    this.touch();
  }

  removeImage(index: number): void {
    this.images = this.images.filter((_, i) => i !== index);
    this.touch();
  }

  /** Back to the empty page; the run in view goes on. */
  newRun(): void {
    this._follow(null);
    this.page = 'run';
    this.touch();
  }

  /** Asks about the chosen images in a new run, or goes on with the run in view. True where the question was taken. */
  async ask(question: string): Promise<boolean> {
    const run = this.run;
    this.starting = true;
    this.touch();
    const taken = await this._try(async () => {
      if (run !== null) {
        await this.api.command(run.id, { command: 'ask', question });
      } else {
        this._follow(await this.api.start(question, this.images, this._around.options()));
        this.images = [];
      }
    });
    this.starting = false;
    this.touch();
    return taken;
  }

  /** Sends a command to the run in view; goes over to the branch where it made one. */
  async command(command: Command): Promise<boolean> {
    const run = this.run;
    if (run === null) {
      return false;
    }
    return this._try(async () => {
      const branch = await this.api.command(run.id, command);
      if (branch !== null && branch !== run.id) {
        this._follow(branch);
      }
    });
  }

  /** Shows a run of the history: a live one as it goes, a saved one from its notebook. */
  async open(summary: Pick<RunSummary, 'id' | 'live' | 'path'>): Promise<void> {
    if (summary.live || summary.path === null) {
      this._follow(summary.id);
    } else {
      await this.openPath(summary.path);
    }
    this.page = 'run';
    this.touch();
  }

  async openPath(path: string): Promise<boolean> {
    return this._try(async () => {
      this._follow(await this.api.openNotebook(path));
      this.page = 'run';
    });
  }

  /** After a reload of the page: the run that was in view, live or from its notebook; nothing where it is gone. */
  async restore(key: RunSummaryKey): Promise<void> {
    const runs = await this.api.runs('', FAMILY_LIMIT).catch(() => []);
    const live = runs.find(run => run.id === key.id && run.live);
    if (this.run !== null) {
      return; // somebody was faster
    }
    if (live !== undefined) {
      this._follow(key.id);
    } else if (key.path !== null) {
      await this.api.openNotebook(key.path).then(
        id => this._follow(id),
        () => this._around.remember(null)
      );
    }
    this.touch();
  }

  async find(search: string): Promise<void> {
    this.search = search;
    this.touch();
    try {
      const runs = await this.api.runs(search, HISTORY_LIMIT);
      if (this.search === search) {
        this.history = runs;
      }
    } catch (error) {
      this.error = message(error);
    }
    this.touch();
  }

  async toggleFamily(): Promise<void> {
    this.showFamily = !this.showFamily;
    this.touch();
    await this.refreshFamily();
  }

  async refreshFamily(): Promise<void> {
    const run = this.run;
    if (run === null || !this.showFamily) {
      return;
    }
    try {
      const runs = await this.api.runs('', FAMILY_LIMIT);
      if (this.run === run) {
        this.family = familyOf(runs, run.id);
      }
    } catch (error) {
      this.error = message(error);
    }
    this.touch();
  }

  async runAudit(): Promise<void> {
    const run = this.run;
    if (run === null || this.audit === 'running') {
      return;
    }
    this.audit = 'running';
    this.touch();
    let report: AuditReport | null = null;
    await this._try(async () => {
      report = await this.api.audit(run.id);
    });
    if (this.run === run) {
      this.audit = report;
    }
    this.touch();
  }

  closeAudit(): void {
    this.audit = null;
    this.touch();
  }

  async openAsNotebook(): Promise<void> {
    const run = this.run;
    if (run !== null) {
      await this._try(async () => this._around.openNotebook(await this.api.path(run.id)));
    }
  }

  /** `told` makes the words on how many cells went in. */
  async insertIntoNotebook(turn: number | null, told: (count: number) => string): Promise<void> {
    const run = this.run;
    if (run !== null) {
      await this._try(async () => {
        this.notice = told(await this._around.insertCells(await this.api.cells(run.id, turn)));
      });
      this.touch();
    }
  }

  /** Ends the run's kernel; the notebook stays. */
  async closeRun(): Promise<void> {
    const run = this.run;
    if (run !== null) {
      await this._try(() => this.api.remove(run.id));
    }
  }

  fail(error: unknown): void {
    this.error = message(error);
    this.touch();
  }

  dismiss(): void {
    this.error = null;
    this.notice = null;
    this.touch();
  }

  /** Tells the watchers; also after a change of the settings. */
  touch(): void {
    this._version += 1;
    this._changed.emit();
  }

  private _follow(id: string | null): void {
    if (this.run?.id === id && this.run.view.state !== 'closed' && this.run.gone === null) {
      return;
    }
    this.run?.dispose();
    this.run = id === null ? null : new Follower(this.api, id);
    this.audit = null;
    this.family = null;
    this._around.remember(id === null ? null : { id, path: null });
    let path: string | null = null;
    let news = '';
    this.run?.changed.connect(run => {
      if (run.view.path !== path) {
        path = run.view.path;
        this._around.remember({ id: run.id, path });
      }
      const now = `${run.view.branches.length} ${run.view.state} ${run.view.turns.length}`;
      if (now !== news) {
        news = now;
        void this.refreshFamily();
      }
      this.touch();
    });
    if (id !== null) {
      void this.refreshFamily();
    }
  }

  private async _try(work: () => Promise<void>): Promise<boolean> {
    this.error = null;
    this.notice = null;
    try {
      await work();
      return true;
    } catch (error) {
      this.error = message(error);
      return false;
    } finally {
      this.touch();
    }
  }

  private readonly _changed = new Signal<this, void>(this);
  private _version = 0;
}

function message(error: unknown): string {
  return error instanceof Error && error.message !== '' ? error.message : String(error);
}
