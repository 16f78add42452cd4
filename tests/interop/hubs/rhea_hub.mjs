// A small IoT Hub on rhea, an AMQP stack that shares nothing with the connector's. Strict on purpose: it checks
// every SAS token, address and property itself and says in the error what is wrong.
//
// usage: node rhea_hub.mjs '{"host":…, "cert":…, "key":…, "policies":{name:key}, "devices":{id:key}}'
// stdin: the commands of rhea_ways.mjs, one JSON object a line
// stdout: one JSON object a line: {"listening":port}, {"telemetry":{…}}, {"refused":"…"}, and what rhea_ways.mjs says

import crypto from 'node:crypto';
import fs from 'node:fs';
import readline from 'node:readline';
import rhea from 'rhea';
import { wayOf, Ways } from './rhea_ways.mjs';

const settings = JSON.parse(process.argv[2]);
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const container = rhea.create_container({ id: 'DeviceGateway_rhea' });
/** connection -> {policy: bool, devices: Set} */
const authorised = new Map();
const ways = new Ways(say);

class Refusal extends Error {
  constructor(status, condition, text) {
    super(text);
    this.status = status;
    this.condition = condition;
  }
}

/** Returns {device} or {policy} for a valid token, else throws a Refusal. */
function verify(text, audience) {
  const bad = (why) => new Refusal(401, 'amqp:unauthorized-access', why);
  if (typeof text !== 'string' || !text.startsWith('SharedAccessSignature ')) throw bad('not a SAS token');
  const pairs = text.slice('SharedAccessSignature '.length).split('&').map((pair) => {
    const at = pair.indexOf('=');
    return [pair.slice(0, at), pair.slice(at + 1)];
  });
  const field = Object.fromEntries(pairs);
  for (const name of ['sr', 'sig', 'se']) if (!field[name]) throw bad(`the token has no ${name}`);
  if (!/^[0-9]+$/.test(field.se)) throw bad('se is not a number of seconds');
  const life = Number(field.se) - Date.now() / 1000;
  if (life <= 0) throw bad('the token has expired');
  if (life > 366 * 24 * 3600) throw bad('the token lives too long: are these milliseconds?');
  const resource = decodeURIComponent(field.sr);
  const [host, ...path] = resource.split('/');
  if (host !== settings.host) throw bad(`the token is for ${host}, not for ${settings.host}`);
  if (decodeURIComponent(audience) !== resource) throw bad(`name ${audience} differs from sr ${field.sr}`);
  let key;
  let who;
  if (field.skn) {
    if (path.length !== 0) throw bad('a policy token must be for the whole hub');
    key = settings.policies[decodeURIComponent(field.skn)];
    who = { policy: true };
  } else {
    if (path.length !== 2 || path[0] !== 'devices') throw bad(`not a device: ${resource}`);
    const device = decodeURIComponent(path[1]);
    if (!(device in settings.devices)) {
      throw new Refusal(404, 'amqp:not-found', `Device ${device} not registered.`);
    }
    key = settings.devices[device];
    who = { device };
  }
  if (!key) throw bad(`unknown policy ${field.skn}`);
  const expected = crypto.createHmac('sha256', Buffer.from(key, 'base64')).update(`${field.sr}\n${field.se}`).digest();
  const given = Buffer.from(decodeURIComponent(field.sig), 'base64');
  if (given.length !== expected.length || !crypto.timingSafeEqual(given, expected)) throw bad('the signature is wrong');
  return who;
}

function putToken(context) {
  const { message, connection } = context;
  const properties = message.application_properties ?? {};
  let status = 200;
  let description = 'OK';
  try {
    if (properties.operation !== 'put-token') throw new Refusal(400, '', `operation is ${properties.operation}`);
    if (!['servicebus.windows.net:sastoken', 'azure-devices.net:sastoken'].includes(properties.type)) {
      throw new Refusal(400, '', `type is ${properties.type}`);
    }
    if (message.message_id === undefined) throw new Refusal(400, '', 'no message-id');
    if (typeof properties.name !== 'string') throw new Refusal(400, '', 'no name');
    const who = verify(message.body, properties.name);
    const rights = authorised.get(connection) ?? { policy: false, devices: new Set() };
    if (who.policy) rights.policy = true;
    else rights.devices.add(who.device);
    authorised.set(connection, rights);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    status = error.status;
    description = error.message;
    say({ refused: description });
  }
  context.delivery.accept();
  const reply = {
    correlation_id: message.message_id,
    application_properties: { 'status-code': rhea.types.wrap_int(status), 'status-description': description },
    body: null,
  };
  const sender = connection.cbs;
  if (sender) sender.send(reply);
}

/** What an address stands for: {device, way}. */
function nodeOf(address) {
  const path = address.replace(/^amqps:\/\/[^/]+/, '');
  const match = /^\/devices\/([^/]+)\/messages\/events$/.exec(path);
  const node = match ? { device: decodeURIComponent(match[1]), way: 'telemetry' } : wayOf(address);
  if (!node) throw new Refusal(404, 'amqp:not-found', `no such address: ${address}`);
  return node;
}

/** Opens a device's link, or refuses it; `role` is ours. */
function attach(link, connection, role, address) {
  try {
    const node = nodeOf(address ?? '');
    const rights = authorised.get(connection);
    if (!rights?.policy && !rights?.devices.has(node.device)) {
      throw new Refusal(401, 'amqp:unauthorized-access', `no token for ${node.device} on this connection`);
    }
    if (!(node.device in settings.devices)) {
      throw new Refusal(404, 'amqp:not-found', `Device ${node.device} not registered.`);
    }
    const receives = node.way === 'telemetry' && role === 'receiver';
    const why = receives ? undefined : ways.attach(link, role, node);
    if (why) throw new Refusal(400, 'amqp:invalid-field', why);
    link.node = node;
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    say({ refused: error.message });
    link.close({ condition: error.condition, description: error.message });
  }
}

function telemetry(context, device) {
  const { message, delivery } = context;
  const complain = (why) => {
    say({ refused: why });
    delivery.reject({ condition: 'com.microsoft:argument-error', description: why });
  };
  if (message.body?.typecode !== 0x75) return complain('the body is not one Data section');
  const body = message.body.content.toString('utf8');
  const properties = message.application_properties ?? {};
  for (const [name, value] of Object.entries(properties)) {
    if (typeof value !== 'string') return complain(`property ${name} is not a string`);
  }
  if (message.content_type !== 'application/json') return complain(`content-type is ${message.content_type}`);
  if (message.content_encoding !== 'utf-8') return complain(`content-encoding is ${message.content_encoding}`);
  if (typeof message.message_id !== 'string' || message.message_id.length > 128) return complain('bad message-id');
  if (!/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/.test(properties['iothub-creation-time-utc'] ?? '')) {
    return complain(`iothub-creation-time-utc is ${properties['iothub-creation-time-utc']}`);
  }
  say({ telemetry: { device, messageId: message.message_id, properties, body } });
  return delivery.accept();
}

container.on('sender_open', (context) => {
  const address = context.sender.source?.address;
  context.sender.set_source({ address });
  if (address === '$cbs') context.connection.cbs = context.sender;
  else attach(context.sender, context.connection, 'sender', address);
});

container.on('receiver_open', (context) => {
  const address = context.receiver.target?.address;
  context.receiver.set_target({ address });
  if (address !== '$cbs') attach(context.receiver, context.connection, 'receiver', address);
});

container.on('message', (context) => {
  const { node } = context.receiver;
  if (context.receiver.target?.address === '$cbs') putToken(context);
  else if (node?.way === 'telemetry') telemetry(context, node.device);
  else if (node) {
    const why = ways.take(context, node);
    if (why) say({ refused: why });
  }
});
for (const state of ['accepted', 'rejected', 'released', 'modified']) {
  container.on(state, ({ delivery }) => ways.outcome(delivery, state));
}
container.on('disconnected', (context) => authorised.delete(context.connection));
// rhea throws on an unhandled error event; a peer's mistake must not end the hub.
for (const event of ['connection_error', 'session_error', 'receiver_error', 'sender_error', 'error']) {
  container.on(event, (context) => say({ trouble: event, text: String(context.error ?? context) }));
}

const server = container.listen({
  transport: 'tls',
  host: '127.0.0.1',
  port: 0,
  key: fs.readFileSync(settings.key),
  cert: fs.readFileSync(settings.cert),
  max_frame_size: 65536,
  channel_max: 8191,
  idle_time_out: 240000,
  receiver_options: { autoaccept: false, credit_window: 100 },
  sender_options: { treat_modified_as_released: false },
});
server.on('listening', () => say({ listening: server.address().port }));
readline.createInterface({ input: process.stdin }).on('line', (line) => ways.command(line));
