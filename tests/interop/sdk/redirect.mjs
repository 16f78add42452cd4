// Microsoft's SDKs insist on port 443. This sends their HTTPS and WebSocket connections to another port of this machine
// through Node's public agent interface; the SDKs stay unmodified.

import https from 'node:https';

export class Redirect extends https.Agent {
  constructor(port, ca) {
    super({ keepAlive: false, ca });
    this.port = port;
  }

  createConnection(options, callback) {
    return super.createConnection({ ...options, port: this.port }, callback);
  }
}
