// Faults that Microsoft's device SDK asks the emulator for, as Microsoft's own tests do, and its recovery from each.
//
// usage: node faults.mjs READY.json, with NODE_EXTRA_CA_CERTS set to the emulator's caFile
// stdout: one JSON object a line

import { setTimeout as pause } from 'node:timers/promises';
import common from 'azure-iot-common';
import device from 'azure-iot-device';
import deviceAmqp from 'azure-iot-device-amqp';
import { Mailbox, parties, say } from './parties.mjs';

const { hub, registry, service } = parties(process.argv[2]);
const kinds = [
  'KillTcp',
  'KillAmqpConnection',
  'KillAmqpSession',
  'KillAmqpD2CLink',
  'KillAmqpC2DLink',
  'InvokeThrottling',
  'ShutDownAmqp',
];
/**
 * Longer than any send takes that ends at all. After a Close or End the SDK waits for answers to its own detaches, which
 * no peer gives that has closed: then the application must make a new client.
 */
const PATIENCE_MS = 4000;
await service.open();

/** A device of its own for each fault, so that all can be tried side by side. */
async function recover(kind) {
  const deviceId = `fault-${kind}`;
  const { responseBody: created } = await registry.create({ deviceId });
  const { primaryKey } = created.authentication.symmetricKey;
  const text = `HostName=${hub.hostName}:${hub.amqpPort};DeviceId=${deviceId};SharedAccessKey=${primaryKey}`;
  const inbox = new Mailbox();
  async function arrive() {
    const client = device.Client.fromConnectionString(text, deviceAmqp.Amqp);
    // Its own policy, but for the pauses after throttling, which begin at ten seconds.
    const policy = new common.ExponentialBackOffWithJitter(true);
    Object.assign(policy.throttledParameters, { c: 500, cMin: 500, cMax: 1000 });
    client.setRetryPolicy(policy);
    // The links go on purpose.
    client.on('error', () => {});
    await client.open();
    client.on('message', (received) => client.complete(received, () => inbox.put(received.data.toString())));
    return client;
  }
  let client = await arrive();
  let renewed = 0;
  await service.send(deviceId, new common.Message('before'));
  const received = [await inbox.next()];

  const asking = new device.Message('fault');
  asking.properties.add('AzIoTHub_FaultOperationType', kind);
  asking.properties.add('AzIoTHub_FaultOperationCloseReason', 'boom');
  asking.properties.add('AzIoTHub_FaultOperationDelayInSecs', 1);
  asking.properties.add('AzIoTHub_FaultOperationDurationInSecs', 1);
  const asked = (await client.sendEvent(asking)).constructor.name;
  const sent = [];
  const began = Date.now();
  // Up to and beyond the fault, one after the other.
  for (let number = 0; number < 3 || Date.now() - began < 2500; number += 1) {
    const event = new device.Message(JSON.stringify({ number }));
    event.messageId = `${kind}-${number}`;
    let result;
    while (result === undefined) {
      const late = new AbortController();
      result = await Promise.race([
        client.sendEvent(event).then((done) => done.constructor.name),
        pause(PATIENCE_MS, undefined, { signal: late.signal }).catch(() => {}),
      ]);
      late.abort();
      if (result === undefined) {
        renewed += 1;
        client = await arrive();
      }
    }
    sent.push(result);
    await pause(600);
  }
  await service.send(deviceId, new common.Message('after'));
  received.push(await inbox.next());
  return { kind, asked, sent: sent.length, others: sent.filter((name) => name !== 'MessageEnqueued'), received, renewed };
}

say({ faults: await Promise.all(kinds.map(recover)) });
// The clients that wait for ever would keep it open.
process.exit(0);
