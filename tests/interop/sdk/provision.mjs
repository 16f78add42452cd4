// Microsoft's provisioning SDK over HTTP against the emulator's DPS: registers with a key derived from the group's.
//
// usage: node provision.mjs READY.json REGISTRATION_ID, with NODE_EXTRA_CA_CERTS set to the emulator's caFile
// stdout: one JSON object a line

import crypto from 'node:crypto';
import fs from 'node:fs';
import https from 'node:https';
import provisioning from 'azure-iot-provisioning-device';
import provisioningHttp from 'azure-iot-provisioning-device-http';
import security from 'azure-iot-security-symmetric-key';
import { Redirect } from './redirect.mjs';

const ready = JSON.parse(fs.readFileSync(process.argv[2], 'utf8'));
const registrationId = process.argv[3];
// This SDK offers no agent option: it uses Node's global one.
https.globalAgent = new Redirect(ready.httpsPort, fs.readFileSync(ready.caFile, 'utf8'));

function derived(groupKey) {
  return crypto.createHmac('sha256', Buffer.from(groupKey, 'base64')).update(registrationId).digest('base64');
}

function register(key) {
  const client = new security.SymmetricKeySecurityClient(registrationId, key);
  const host = new URL(ready.dpsEndpoint.includes('://') ? ready.dpsEndpoint : `https://${ready.dpsEndpoint}`).hostname;
  const made = provisioning.ProvisioningDeviceClient.create(host, ready.idScope, new provisioningHttp.Http(), client);
  return made.register();
}

const key = derived(ready.groupEnrollmentKey);
const result = await register(key);
process.stdout.write(`${JSON.stringify({ assigned: { hub: result.assignedHub, device: result.deviceId, key } })}\n`);
const refused = await register(derived(crypto.randomBytes(32).toString('base64'))).then(
  () => 'was let in',
  (error) => error.constructor.name,
);
process.stdout.write(`${JSON.stringify({ refused })}\n`);
process.exit(0);
