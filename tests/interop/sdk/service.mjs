// A back end on Microsoft's service SDK that does what it is told.
//
// usage: node service.mjs READY.json, with NODE_EXTRA_CA_CERTS set to the emulator's caFile
// stdin: one command a line, {"send":{…}} and so on; stdout: {"answer":{"send":…}} or {"answer":{"error":name}} for
// each, and {"feedback":{…}} for each record when it comes

import readline from 'node:readline';
import common from 'azure-iot-common';
import { parties, say } from './parties.mjs';

const { registry, service, caller } = parties(process.argv[2]);

/** A name or IoT Hub's own code, whichever says more. */
function why(error) {
  const code = /ErrorCode:(\w+)/.exec(error.responseBody)?.[1];
  return code ?? error.constructor.name;
}

const commands = {
  /** A cloud-to-device message whose fate is told. */
  async send({ device, id, body, properties = {} }) {
    const message = new common.Message(body);
    message.messageId = id;
    message.ack = 'full';
    for (const [name, value] of Object.entries(properties)) message.properties.add(name, value);
    return (await service.send(device, message)).result.constructor.name;
  },

  /** A direct method. */
  async invoke({ device, method, payload, timeout = 20 }) {
    const request = { methodName: method, payload, responseTimeoutInSeconds: timeout };
    const { result } = await caller.invokeDeviceMethod(device, request);
    return { status: result.status, payload: result.payload };
  },

  /** Changes desired properties, whatever they were. */
  async desire({ device, properties }) {
    const { responseBody } = await registry.updateTwin(device, { properties: { desired: properties } }, '*');
    return responseBody.properties.desired.$version;
  },

  /** Reads a twin. */
  async twin({ device }) {
    return (await registry.getTwin(device)).responseBody.properties;
  },
};

await service.open();
const { result: receiver } = await service.getFeedbackReceiver();
receiver.on('message', ({ data }) => JSON.parse(data.toString()).forEach((feedback) => say({ feedback })));
say({ open: true });
for await (const line of readline.createInterface({ input: process.stdin })) {
  const [[name, what]] = Object.entries(JSON.parse(line));
  await commands[name](what).then((result) => say({ answer: { [name]: result } }), (error) => say({ answer: { error: why(error) } }));
}
await service.close();
process.exit(0);
