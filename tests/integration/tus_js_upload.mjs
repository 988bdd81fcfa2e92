// One upload by tus-js-client, which is looked for in the working directory: node tus_js_upload.mjs FILE OPTIONS
import fs from "node:fs";
import { createRequire } from "node:module";

const tus = createRequire(`${process.cwd()}/`)("tus-js-client");
const [path, words] = process.argv.slice(2);
const options = JSON.parse(words);
// Of a file that it reads itself, 4.3.1 takes no chunk for the last one, unless that is all: the drafts' Upload-Complete
// and tus's late Upload-Length are then never said.
const whole = options.protocol !== "tus-v1" || options.uploadLengthDeferred;
let failures = 0;
const upload = new tus.Upload(whole ? fs.readFileSync(path) : fs.createReadStream(path), {
  ...options,
  retryDelays: Array(50).fill(5), // milliseconds
  onShouldRetry: ({ originalResponse: answer }) => {
    failures += 1;
    return !answer || answer.getStatus() >= 500;
  },
  onError: (error) => {
    console.error(String(error));
    process.exitCode = 1;
  },
  onSuccess: ({ lastResponse: last }) => {
    console.log(JSON.stringify({ failures, url: upload.url, status: last.getStatus(), body: last.getBody() }));
  },
});
upload.start();
