// Whether promptfoo and `switchback eval` judge alike: compares the report of `promptfoo eval -o FILE.json` with that of
// `switchback eval --json`, of the same suite, assertion by assertion.
//
//   node same-verdicts.mjs PROMPTFOO.json SWITCHBACK.json
import { readFileSync } from 'node:fs';

const [theirs, ours] = process.argv.slice(2).map((file) => JSON.parse(readFileSync(file, 'utf8')));
const results = theirs.results.results;
if (results.length !== ours.cases.length) {
  throw new Error(`${results.length} results and ${ours.cases.length} cases`);
}
const of = new Map(results.map((result) => [result.testIdx, result]));
let assertions = 0;
const others = [];
for (const found of ours.cases) {
  const result = of.get(found.index);
  const wanted = result.gradingResult.componentResults.map((component) => component.pass);
  const verdicts = found.assertions.map((assertion) => assertion.passed);
  assertions += verdicts.length;
  if (`${wanted}` !== `${verdicts}` || result.success !== (found.outcome === 'passed')) {
    others.push(`${found.title}: ${wanted} there, ${verdicts} here`);
  }
}
others.forEach((other) => console.log(other));
console.log(`${ours.cases.length} cases, ${assertions} assertions: ${others.length} cases judged otherwise`);
process.exitCode = others.length > 0 ? 1 : 0;
