// Calls a module's functions as check.py asks for them: a line of JSON in, a line of JSON out.
import { createInterface } from "node:readline";

const example = await import(`./${process.argv[2]}.mjs`);
const names = { invite: example.invite, open_link: example.openLink, confirm: example.confirm };
for await (const line of createInterface({ input: process.stdin })) {
  const [name, args] = JSON.parse(line);
  console.log(JSON.stringify(await names[name](...args)));
}
await (example.pool ?? example.sql).end();
