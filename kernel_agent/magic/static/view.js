// The live view of a run (see view.py for the messages). Text of the model and its code is only ever set as text.

const NAMES = {
  running: "Running", paused: "Paused", waiting: "Waits for your approval", idle: "Done", closed: "Closed",
};

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

const svg = (tag, attributes) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
};

const button = (label, title, onclick) => make("button", { type: "button", title, onclick }, label);

function highlighted(tokens, code) {
  const pre = make("pre", { class: "cv-code" });
  for (const [kind, text] of tokens ?? [["", code]]) pre.append(kind ? make("span", { class: `cv-${kind}` }, text) : text);
  return pre;
}

// What is known of one run, from its events.
class Run {
  constructor(id) {
    this.id = id;
    this.last = -1;
    this.followed = false;
    this.head = null;
    this.state = "idle";
    this.approveEach = false;
    this.left = null;
    this.rows = []; // {kind: "turn" | "step" | "answer", ...} in order
    this.images = new Map();
    this.steps = new Map();
  }

  step(index) {
    if (!this.steps.has(index)) {
      const row = { kind: "step", step: index, text: "", outputs: [], images: [] };
      this.steps.set(index, row);
      this.rows.push(row);
    }
    return this.steps.get(index);
  }

  // Returns the row that changed, or null.
  take(event) {
    if (event.seq <= this.last) return null;
    this.last = event.seq;
    const learn = (images) => images.forEach((image) => this.images.set(image.index, image));
    switch (event.type) {
      case "run": learn(event.images); this.head = event; return null;
      case "state": this.state = event.state; this.approveEach = event.approve_each; return null;
      case "budget": this.left = event; return null;
      case "turn": this.left = { left: event.budget, limit: event.budget }; this.rows.push({ kind: "turn", ...event }); break;
      case "answer": this.rows.push({ kind: "answer", ...event }); break;
      case "writing": {
        const row = this.step(event.step);
        row.text = event.whole ? event.text : row.text + event.text;
        return row;
      }
      case "action": return Object.assign(this.step(event.step), event, { kind: "step", phase: event.approval ? "waiting" : "" });
      case "running": {
        const { step, code, tokens, edited } = event;
        return Object.assign(this.step(step), { tokens, ran: code, edited, phase: "running" });
      }
      case "step": {
        learn(event.images);
        const row = this.step(event.step);
        const tokens = row.ran ? row.tokens : event.tokens; // what ran may be another than what the model wrote
        return Object.assign(row, event, { kind: "step", phase: "done", tokens });
      }
    }
    return this.rows.at(-1);
  }
}

class View {
  constructor(model, el) {
    this.model = model;
    this.el = el;
    this.runs = new Map();
    this.current = null;
    this.urls = new Map(); // "run/index" -> object URL, or null while it is asked for
    this.nodes = new Map(); // row -> its element
    this.status = make("span", { class: "cv-status", role: "status", "aria-live": "polite" });
    this.budget = make("span", { class: "cv-budget", title: "What is left of this question's budget" });
    this.bar = make("div", { class: "cv-bar", role: "toolbar", "aria-label": "CodeVision run" });
    this.branches = make("nav", { class: "cv-branches", "aria-label": "Branches" });
    this.inputs = make("div", { class: "cv-pictures" });
    this.list = make("div", { class: "cv-steps" });
    this.problem = make("div", { class: "cv-problem", role: "alert", hidden: true });
    el.classList.add("codevision-view");
    el.append(this.bar, this.branches, this.problem, this.inputs, this.list);
    this.heard = (message, buffers) => this.hear(message, buffers);
    model.on("msg:custom", this.heard);
    this.send({ type: "follow", run: null, after: -1 });
  }

  dispose() {
    this.model.off("msg:custom", this.heard);
    for (const url of this.urls.values()) if (url) URL.revokeObjectURL(url);
  }

  send(message) {
    this.model.send(message);
  }

  command(command, args = {}) {
    this.problem.hidden = true;
    this.send({ type: "command", run: this.current, command, arguments: args });
  }

  hear(message, buffers) {
    if (message.type === "runs") this.hearRuns(message);
    else if (message.type === "events") this.hearEvents(message);
    else if (message.type === "image") this.hearImage(message, buffers[0]);
    else if (message.type === "problem") {
      this.problem.textContent = message.message;
      this.problem.hidden = false;
    }
  }

  hearRuns({ current, runs }) {
    this.known = runs;
    for (const { id } of runs) if (!this.runs.has(id)) this.runs.set(id, new Run(id));
    if (this.current !== current) {
      const began = this.current !== null;
      this.current = current;
      this.nodes.clear();
      this.list.replaceChildren();
      const run = this.runs.get(current);
      run.rows.forEach((row) => this.draw(row));
      if (began && !run.followed) this.send({ type: "follow", run: current, after: run.last });
    }
    this.drawBranches();
    this.drawHead();
  }

  hearEvents({ run: id, events, after }) {
    const run = this.runs.get(id);
    if (!run) return;
    if (after !== undefined) run.followed = true;
    if (!run.followed) return; // they come again with the answer to "follow"
    const changed = new Set();
    for (const event of events) changed.add(run.take(event));
    if (id !== this.current) return;
    for (const row of changed) if (row) this.draw(row);
    this.drawHead();
  }

  hearImage({ run, index, mime }, buffer) {
    const url = URL.createObjectURL(new Blob([buffer], { type: mime }));
    this.urls.set(`${run}/${index}`, url);
    for (const img of this.el.querySelectorAll(`img[data-image="${run}/${index}"]`)) img.src = url;
  }

  // ---------------------------------------------------------------- drawing

  drawBranches() {
    this.branches.hidden = this.known.length < 2;
    this.branches.replaceChildren(...this.known.map(({ id, parent }, number) => {
      const label = parent ? `Branch ${number} (from step ${parent[1] + 1})` : "First run";
      const node = button(label, `Show run ${id.slice(0, 8)}`, () => this.send({ type: "show", run: id }));
      if (id === this.current) node.setAttribute("aria-current", "true");
      return node;
    }));
  }

  drawHead() {
    const run = this.runs.get(this.current);
    if (!run?.head) return;
    const { model, isolation } = run.head;
    this.status.textContent = NAMES[run.state] ?? run.state;
    this.status.dataset.state = run.state;
    if (run.left) {
      const { left, limit } = run.left;
      const steps = `${left.steps} of ${limit.steps} steps`;
      const tokens = limit.tokens ? `, ${left.tokens} tokens` : "";
      this.budget.textContent = `left: ${steps}${tokens}, ${Math.max(0, Math.round(left.seconds))} s`;
    }
    const works = run.state === "running" || run.state === "waiting" || run.state === "paused";
    const key = [run.state, run.approveEach, model, isolation].join();
    if (key !== this.headKey) {
      this.headKey = key;
      const focused = this.bar.contains(document.activeElement) ? document.activeElement.textContent : null;
      const approve = make("input", { type: "checkbox", onchange: (event) => this.command("approve_each", { on: event.target.checked }) });
      approve.checked = run.approveEach;
      this.bar.replaceChildren(
        this.status,
        ...(works ? [button("Stop", "Stop this turn; the run can be asked on", () => this.command("stop"))] : []),
        ...(works ? [run.state === "paused" ? button("Go on", "Go on with the run", () => this.command("resume"))
          : button("Pause", "Wait before the next step", () => this.command("pause"))] : []),
        make("label", { title: "Wait for you before each cell runs" }, approve, "approve each step"),
        this.budget,
        make("span", { class: "cv-about", title: "Model, and isolation of its kernel" }, `${model} · ${isolation}`),
      );
      if (focused) [...this.bar.querySelectorAll("button")].find((node) => node.textContent === focused)?.focus();
    }
    this.drawInputs(run);
  }

  drawInputs(run) {
    const inputs = run.head.images;
    const key = `${run.id}:${[...run.images.keys()].join()}`;
    if (key === this.inputsKey) return;
    this.inputsKey = key;
    this.inputs.replaceChildren(...inputs.map((image) => this.picture(run, image, [...run.images.values()])));
  }

  draw(row) {
    const node = this.drawn(row);
    const old = this.nodes.get(row);
    this.nodes.set(row, node);
    if (!old) this.list.append(node);
    else if (!old.contains(document.activeElement) || row.phase !== "waiting") old.replaceWith(node);
    else this.nodes.set(row, old); // somebody is typing in it
  }

  drawn(row) {
    if (row.kind === "turn") return make("p", { class: "cv-question" }, row.question);
    if (row.kind === "answer") {
      const said = row.answer ?? `no answer: ${row.stop_reason}${row.failure ? ` (${row.failure})` : ""}`;
      return make("p", { class: "cv-answer" }, make("strong", {}, row.answer == null ? "" : "Answer "), said);
    }
    const run = this.runs.get(this.current);
    const { step, action = {} } = row;
    const status = row.phase === "done" ? row.status ?? "" : row.phase === "running" ? "running" : row.action ? "" : "writing";
    const head = make("header", {}, make("strong", {}, `Step ${step + 1}`),
      make("span", { class: "cv-step-status", "data-status": status }, status + (row.edited ? " · edited by you" : "")));
    const node = make("section", { class: "cv-step", "aria-label": `Step ${step + 1}` }, head);
    const thought = row.thought ?? row.text;
    if (thought) node.append(make("p", { class: "cv-thought" }, thought));
    if (action.kind === "malformed") node.append(make("p", { class: "cv-malformed" }, action.problem));
    if (action.kind === "code") this.code(row, head, node);
    for (const output of row.outputs ?? []) node.append(this.output(run, row, output));
    return node;
  }

  code(row, head, node) {
    const code = row.ran ?? row.action.code;
    const edit = (label, title, send) => () => {
      const text = make("textarea", { "aria-label": `Code of step ${row.step + 1}`, spellcheck: "false", rows: code.split("\n").length + 1 });
      text.value = code;
      const editor = make("div", { class: "cv-editor" }, text,
        make("div", {}, button(label, title, () => send(text.value)), button("Cancel", "Leave the code as it is", () => editor.remove())));
      node.querySelector(".cv-editor")?.remove();
      node.querySelector(".cv-code").after(editor);
      text.focus();
    };
    node.append(highlighted(row.tokens, code));
    if (row.phase === "waiting") {
      node.append(make("div", { class: "cv-decide" },
        button("Run", "Run this code", () => this.command("approve")),
        button("Edit…", "Change the code, then run it", edit("Run", "Run the changed code", (text) => this.command("approve", { code: text }))),
        button("Refuse", "Do not run it; the model is told", () => this.command("refuse", { reason: "" }))));
    } else if (row.phase === "done") {
      head.append(
        button("Edit and go on…", `Change the code of step ${row.step + 1} and go on from there, in a branch`,
          edit("Go on", "Run the changed code in a branch and go on", (text) => this.command("edit", { step: row.step, code: text }))),
        button("Rewind to here", `Go back to the state after step ${row.step + 1}, in a branch`, () => this.command("rewind", { steps: row.step + 1 })));
    }
  }

  output(run, row, output) {
    if (output.kind === "image") {
      const image = run.images.get(output.index);
      return make("div", { class: "cv-pictures" }, image ? this.picture(run, image, []) : null);
    }
    if (output.kind === "error") {
      const text = output.traceback.length ? output.traceback.join("\n") : `${output.ename}: ${output.evalue}`;
      // eslint-disable-next-line no-control-regex
      return make("pre", { class: "cv-error" }, text.replace(/\x1b\[[0-9;]*m/g, ""));
    }
    const dropped = output.dropped ? `\n… ${output.dropped} characters more` : "";
    return make("pre", { class: output.name === "stderr" ? "cv-stderr" : "cv-text" }, output.text + dropped);
  }

  // A picture with its name; on an input, the outlines of what was cut from it.
  picture(run, image, others) {
    const key = `${run.id}/${image.index}`;
    const about = `${image.name}, ${image.size[0]} × ${image.size[1]} px` + (image.parent == null ? "" : `, from image_${image.parent}`);
    const img = make("img", { alt: about, "data-image": key });
    if (this.urls.get(key)) img.src = this.urls.get(key);
    else if (!this.urls.has(key)) {
      this.urls.set(key, null);
      this.send({ type: "image", run: run.id, index: image.index });
    }
    const frame = make("div", { class: "cv-frame" }, img);
    const boxes = others.filter((other) => other.root === image.index && other.outline && other.index !== image.index);
    if (boxes.length) {
      const [width, height] = image.size;
      const overlay = svg("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" });
      const size = Math.max(height / 14, width / 40);
      const taken = new Map(); // boxes that begin at one place have their names below each other
      for (const box of boxes) {
        overlay.append(svg("polygon", { points: box.outline.map((corner) => corner.join()).join(" ") }));
        const [x, y] = [0, 1].map((axis) => Math.min(...box.outline.map((corner) => corner[axis])));
        const line = (taken.get(`${x},${y}`) ?? 0) + 1;
        taken.set(`${x},${y}`, line);
        const label = svg("text", { x, y: y + line * size, "font-size": size });
        label.textContent = box.name;
        overlay.append(label);
      }
      frame.append(overlay);
    }
    return make("figure", {}, frame, make("figcaption", {}, about));
  }
}

export default {
  render({ model, el }) {
    const view = new View(model, el);
    return () => view.dispose();
  },
};
