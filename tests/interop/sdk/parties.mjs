// What the scripts share: Microsoft's service SDK pointed at the emulator, and small helpers.

import crypto from 'node:crypto';
import fs from 'node:fs';
import iothub from 'azure-iothub';
import { Redirect } from './redirect.mjs';

/** One JSON object as a line of standard output. */
export const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

/** The name of a promise's error. */
export const errorOf = (promise) => promise.then(() => 'no error', (error) => error.constructor.name);

/** IoT Hub's own code in a promise's error, where the SDK has no name for it. */
export const codeOf = (promise) => promise.then(
  () => 'no error',
  (error) => /ErrorCode:(\w+)/.exec(error.responseBody)?.[1] ?? String(error),
);

/** A new symmetric key. */
export const key = () => crypto.randomBytes(32).toString('base64');

/** Lets HTTPS go to the emulator's port. The only way to another port than 443 is this private member. */
export function redirected(made, ready) {
  made._restApiClient.setOptions({ http: { agent: new Redirect(ready.httpsPort) } });
  return made;
}

/**
 * The emulator's first hub: `registry`, `service` for messages over AMQP, `caller` for direct methods over HTTPS. Two
 * clients, as the port is part of the host name over AMQP and may not be over HTTPS.
 */
export function parties(path) {
  const ready = JSON.parse(fs.readFileSync(path, 'utf8'));
  const [hub] = ready.hubs;
  const text = hub.serviceConnectionString;
  const withPort = text.replace(/HostName=[^;]+/, `HostName=${hub.hostName}:${hub.amqpPort}`);
  return {
    ready,
    hub,
    registry: redirected(iothub.Registry.fromConnectionString(text), ready),
    service: iothub.Client.fromConnectionString(withPort),
    caller: redirected(iothub.Client.fromConnectionString(text), ready),
  };
}

/** Values in the order they came; whoever asks waits. */
export class Mailbox {
  #values = [];
  #waiting = [];

  put(value) {
    const first = this.#waiting.shift();
    if (first) first(value);
    else this.#values.push(value);
  }

  next() {
    if (this.#values.length > 0) return Promise.resolve(this.#values.shift());
    return new Promise((resolve) => this.#waiting.push(resolve));
  }
}
