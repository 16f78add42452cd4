// Microsoft's service SDK against the emulator's registry: creates, gets, updates and deletes devices, one and many, and queries.
//
// usage: node registry.mjs READY.json DEVICE_ID, with NODE_EXTRA_CA_CERTS set to the emulator's caFile
// stdout: one JSON object a line

import iothub from 'azure-iothub';
import { errorOf, key, parties, redirected, say } from './parties.mjs';

const { ready, hub, registry } = parties(process.argv[2]);
const deviceId = process.argv[3];
const pair = () => ({ symmetricKey: { primaryKey: key(), secondaryKey: key() } });
const authentication = pair();
const { symmetricKey } = authentication;
const device = { deviceId, status: 'enabled', authentication };
const { responseBody: created } = await registry.create(device);
say({ created: { deviceId: created.deviceId, status: created.status } });
say({ again: await errorOf(registry.create(device)) });

const { responseBody: got } = await registry.get(deviceId);
say({ sameKey: got.authentication.symmetricKey.primaryKey === symmetricKey.primaryKey });

const { responseBody: bare } = await registry.create({ deviceId: `${deviceId}-bare` });
say({ keysMade: Buffer.from(bare.authentication.symmetricKey.primaryKey, 'base64').length >= 16 });

await registry.update({ ...got, status: 'disabled' });
const { responseBody: updated } = await registry.get(deviceId);
say({ updated: { status: updated.status, sameKey: updated.authentication.symmetricKey.primaryKey === symmetricKey.primaryKey } });

const ids = (devices) => devices.map((one) => one.deviceId).sort();
const many = [1, 2, 3].map((number) => ({ deviceId: `${deviceId}-many-${number}`, status: 'enabled' }));
const withKeys = many.map((one) => ({ ...one, authentication: pair() }));
const { responseBody: added } = await registry.addDevices(withKeys);
const twice = await registry.addDevices([withKeys[0]]).catch((error) => JSON.parse(error.responseBody));
say({ added: added.isSuccessful, twice });
const disabled = withKeys.map((one) => ({ ...one, status: 'disabled' }));
const { responseBody: changed } = await registry.updateDevices(disabled, true);
const { responseBody: list } = await registry.list();
say({ changed: changed.isSuccessful, list: ids(list.filter((one) => one.status === 'disabled')) });
const { responseBody: count } = await registry.getRegistryStatistics();
say({ count });

for (const one of many) await registry.updateTwin(one.deviceId, { tags: { floor: Number(one.deviceId.slice(-1)) } }, '*');
// One a page.
const query = registry.createQuery('SELECT * FROM devices WHERE tags.floor >= 2', 1);
const pages = [];
while (query.hasMoreResults) pages.push(ids((await query.nextAsTwin()).result));
say({ pages });
const third = registry.createQuery('SELECT deviceId, tags.floor AS floor FROM devices WHERE tags.floor = 3');
say({ floors: (await third.next()).result, broken: await errorOf(registry.createQuery('SELECT everything').next()) });
const { responseBody: removed } = await registry.removeDevices(many, true);
say({ removed: removed.isSuccessful });

await registry.delete(deviceId);
say({ gone: await errorOf(registry.get(deviceId)) });

const wrong = hub.serviceConnectionString.replace(/SharedAccessKey=.*$/, `SharedAccessKey=${key()}`);
const stranger = redirected(iothub.Registry.fromConnectionString(wrong), ready);
say({ wrongKey: await errorOf(stranger.get(`${deviceId}-bare`)) });
process.exit(0);
