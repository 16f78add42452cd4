// Microsoft's SDKs insist on port 443. This sends their HTTPS and WebSocket connections to another port of the same host
// through Node's public agent interface; the SDKs stay unmodified. Trust comes from NODE_EXTRA_CA_CERTS.

import https from 'node:https';

export class Redirect extends https.Agent {
  constructor(port) {
    super({ keepAlive: false });
    this.port = port;
    /** Connections made so far. */
    this.connections = 0;
  }

  createConnection(options, callback) {
    this.connections += 1;
    return super.createConnection({ ...options, port: this.port }, callback);
  }
}
