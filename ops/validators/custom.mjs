// Checks an object of KEDA or of the Prometheus Operator, on standard input, against its schema. Node finds packages beside a
// module only, so this runs from where they are installed.
import { readFileSync } from "node:fs";
import * as keda from "@kubernetes-models/keda/keda.sh/v1alpha1";
import * as operator from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1";

const object = JSON.parse(readFileSync(0));
const Kind = { ...keda, ...operator }[object.kind];
if (!Kind) throw new Error(`no schema for ${object.kind}`);
new Kind(object).validate();
