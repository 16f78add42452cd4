// What a hub sends to its devices, on rhea: cloud-to-device messages, method calls and twins. As strict as rhea_hub.mjs,
// which opens the links. Deliveries have tags of 16 bytes, calls ids of type uuid, as Azure's.
//
// commands: {"c2d":{device, id, properties, body}} (with a former id it is handed out again), {"method":{device, name,
// payload}}, {"desired":{device, patch}}, {"detach":{device, way}}
// it says: {"open":{…}}, {"outcome":{…}}, {"reply":{…}}, {"twin":{…}}, {"reported":{…}}, {"refused":"…"}

import crypto from 'node:crypto';
import rhea from 'rhea';

const { types } = rhea;
const WAYS = { 'messages/devicebound': 'c2d', 'methods/devicebound': 'methods', twin: 'twin' };
const GUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const PAIR = /^(methods|twin):(.+)$/;
const data = (text) => rhea.message.data_section(Buffer.from(text));
const tag = () => crypto.randomBytes(16);
const textOf = (uuid) => uuid.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');

/** The device and the way that an address stands for, or nothing. */
export function wayOf(address) {
  const [, device, node] = /^(?:amqps:\/\/[^/]+)?\/devices\/([^/]+)\/(.+)$/i.exec(address) ?? [];
  const way = WAYS[node?.toLowerCase()];
  return way && { device: decodeURIComponent(device), way };
}

export class Ways {
  constructor(say) {
    this.say = say;
    /** device -> {c2d, methods, twin}, each {sender, receiver, pair} */
    this.links = new Map();
    /** device -> {desired, reported, subscribed}; desired has $version. */
    this.twins = new Map();
    /** deliveries and calls without an answer */
    this.open = new Map();
    /** message-id -> what the hub writes on it, the same each time it is handed out */
    this.marks = new Map();
  }

  /** Takes a link whose device may have it; `role` is ours. Returns why not, or nothing. */
  attach(link, role, { device, way }) {
    const ways = this.links.get(device) ?? {};
    this.links.set(device, ways);
    const { properties = {}, snd_settle_mode: settle } = link.remote.attach;
    if (!properties['com.microsoft:api-version']) return `the ${way} link has no api-version`;
    if (way === 'c2d') {
      if (role !== 'sender') return 'nobody sends to messages/devicebound';
      if (settle === 1) return 'the answers to messages would be lost';
      ways.c2d = { sender: link };
    } else {
      const pair = properties['com.microsoft:channel-correlation-id'];
      const [, kind, id] = PAIR.exec(pair) ?? [];
      if (kind !== way || !GUID.test(id)) return `channel-correlation-id of ${way} is ${pair}`;
      const other = ways[way];
      if (other && !(other.sender && other.receiver) && other.pair !== pair) return `${way}: a pair of two ids`;
      ways[way] = other?.pair === pair ? other : { pair };
      ways[way][role] = link;
      if (!ways[way].sender || !ways[way].receiver) return undefined;
    }
    if (settle === 1) link.local.attach.snd_settle_mode = 1;
    this.say({ open: { device, way } });
    return undefined;
  }

  command(line) {
    const [[name, what]] = Object.entries(JSON.parse(line));
    this[name](what);
  }

  c2d({ device, id, properties, body }) {
    const marks = this.marks.get(id) ?? { at: Date.now(), number: this.marks.size + 1 };
    this.marks.set(id, marks);
    const delivery = this.links.get(device).c2d.sender.send({
      message_id: id,
      to: `/devices/${encodeURIComponent(device)}/messages/devicebound`,
      absolute_expiry_time: marks.at + 3_600_000,
      content_type: 'application/json',
      content_encoding: 'utf-8',
      message_annotations: {
        'iothub-enqueuedtime': types.wrap_timestamp(marks.at),
        'iothub-deliverycount': types.wrap_ubyte(0),
        'x-opt-sequence-number': types.wrap_ulong(marks.number),
        'x-opt-lock-token': crypto.randomUUID(),
      },
      application_properties: { 'iothub-ack': 'full', ...properties },
      body: data(body),
    }, tag());
    this.open.set(delivery, id);
  }

  detach({ device, way }) {
    const { sender } = this.links.get(device)[way];
    delete this.links.get(device)[way];
    sender.close({ condition: 'amqp:link:detach-forced', description: 'The server is busy.' });
  }

  /** A delivery was answered. */
  outcome(delivery, state) {
    const id = this.open.get(delivery);
    if (id === undefined) return;
    this.open.delete(delivery);
    const { condition, description } = delivery.remote_state?.error ?? {};
    this.say({ outcome: { id, state, condition, description, settled: delivery.remote_settled } });
  }

  method({ device, name, payload }) {
    const id = crypto.randomBytes(16);
    this.open.set(textOf(id), name);
    this.links.get(device).methods.sender.send({
      correlation_id: types.wrap_uuid(id),
      application_properties: { 'IoThub-methodname': name },
      body: data(JSON.stringify(payload)),
    }, tag());
  }

  desired({ device, patch }) {
    const twin = this.twin(device);
    Object.assign(twin.desired, patch);
    twin.desired.$version += 1;
    if (!twin.subscribed) return;
    this.links.get(device).twin.sender.send({
      message_annotations: { resource: '/properties/desired' },
      body: data(JSON.stringify({ ...patch, $version: twin.desired.$version })),
    }, tag());
  }

  /** Takes a message from a device. Returns why it is wrong, or nothing. */
  take({ message, receiver, delivery }, { device, way }) {
    if (message.body?.typecode !== 0x75) return `${way}: the body is not one Data section`;
    const body = message.body.content.toString('utf8');
    const why = way === 'methods' ? this.replied(message, body) : this.asked(message, body, device);
    if (!why && !receiver.remote.attach.snd_settle_mode) delivery.accept();
    return why;
  }

  replied(message, body) {
    const id = message.correlation_id;
    if (!Buffer.isBuffer(id) || id.length !== 16) return `the reply's correlation-id is ${id}, not a uuid`;
    const name = this.open.get(textOf(id));
    if (!name) return 'a reply to no call';
    this.open.delete(textOf(id));
    const status = message.application_properties?.['IoThub-status'];
    this.say({ reply: { name, status, payload: JSON.parse(body) } });
    return undefined;
  }

  twin(device) {
    const twin = this.twins.get(device) ?? { desired: { $version: 1 }, reported: { $version: 1 }, subscribed: false };
    this.twins.set(device, twin);
    return twin;
  }

  asked(message, body, device) {
    const { operation, resource } = message.message_annotations ?? {};
    const id = message.correlation_id;
    if (typeof id !== 'string') return 'a twin request without correlation-id';
    const twin = this.twin(device);
    const annotations = { status: types.wrap_int(200) };
    let answer = '';
    if (operation === 'GET' && resource === undefined) {
      answer = JSON.stringify({ desired: twin.desired, reported: twin.reported });
    } else if (operation === 'PUT' && resource === '/notifications/twin/properties/desired') {
      twin.subscribed = true;
    } else if (operation === 'PATCH' && resource === '/properties/reported') {
      const patch = JSON.parse(body);
      Object.assign(twin.reported, patch);
      twin.reported.$version += 1;
      annotations.status = types.wrap_int(204);
      annotations.version = types.wrap_long(twin.reported.$version);
      this.say({ reported: { device, patch } });
    } else {
      return `a twin request ${operation} ${resource}`;
    }
    this.say({ twin: { device, operation } });
    this.links.get(device).twin.sender.send(
      { correlation_id: id, message_annotations: annotations, body: data(answer) }, tag());
    return undefined;
  }
}
