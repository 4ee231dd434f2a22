// What the page may set: biflow.serve.controls, without what there is only one of here.

const DEFAULT_STEPS = 4;
const OPTIONAL = ["fps_cap", "steps"];

export function changed(controls, wanted, { models: [{ can, method_title: title, name }], ranges, solvers, need_steps: fixed }) {
  // The controls with those of `wanted` that are possible, and a sentence for each that is not.
  const options = { model: [name], model_b: [name], direction: ["forward", "backward"], solver: solvers, format: [controls.format] };
  const notes = [], values = { ...controls };
  for (const [key, value] of Object.entries(wanted)) {
    if (!(key in controls)) {
      notes.push(`There is no control ${key}.`);
    } else if (ranges[key] && Number.isFinite(value)) {
      const [low, high] = ranges[key];
      values[key] = Math.min(high, Math.max(low, value));
      if (values[key] !== value) notes.push(`${key} goes from ${low} to ${high}: took ${values[key]}.`);
    } else if (typeof controls[key] === "boolean" ? typeof value === "boolean" : options[key]?.includes(value)) {
      values[key] = value;
    } else if (OPTIONAL.includes(key) && value === null) {
      values[key] = null;
    } else {
      notes.push(`${key} cannot be ${JSON.stringify(value)}.`);
    }
  }
  if (values.steps === null && fixed.includes(values.solver)) {
    notes.push(`In the browser, steps are fixed: took ${DEFAULT_STEPS}.`);
    values.steps = DEFAULT_STEPS;
  }
  if (!can.backward && values.direction === "backward") {
    notes.push(`${title} has no backward direction.`);
    values.direction = "forward";
  }
  if (!can.eps) values.eps = values.eps_b = 0;
  values.in_between = 1;
  return { controls: values, notes };
}
