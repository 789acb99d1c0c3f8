// Holds the ScaledObject on standard input against KEDA's schema. NODE_PATH leads to it.
const { ScaledObject } = require("@kubernetes-models/keda/keda.sh/v1alpha1");

new ScaledObject(JSON.parse(require("node:fs").readFileSync(0))).validate();
