// Reads JSON documents, one a line, and judges every Knative Service by the published schema. Exit code 65: one is wrong.
// Run from a folder in which package.json is installed.
import { Service } from "@kubernetes-models/knative/serving.knative.dev/v1/Service";
import { readFileSync } from "node:fs";

let services = 0;
for (const line of readFileSync(0, "utf8").split("\n").filter(Boolean)) {
  const document = JSON.parse(line);
  if (document.kind !== "Service") continue;
  services += 1;
  try {
    new Service(document).validate();
  } catch (error) {
    console.error(`Knative's schema: ${error.message}`);
    process.exitCode = 65;
  }
}
if (services === 0) {
  console.error("Knative's schema: no Service among the documents");
  process.exitCode = 65;
}
