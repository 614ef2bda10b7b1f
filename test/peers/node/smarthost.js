// A smarthost on npm's smtp-server that takes XOAUTH2 alone, after STARTTLS. Whether a token is good for a user it asks
// the authorization server (RFC 7662). What it takes goes into a maildir for each recipient, with LF line ends.
//
//   node smarthost.js PORT CERT KEY INTROSPECTION-URL FOLDER
'use strict';
const fs = require('fs');
const path = require('path');
const { SMTPServer } = require('smtp-server');

const [port, cert, key, introspection, folder] = process.argv.slice(2);
let count = 0;

async function userOf(token) {
	const answer = await fetch(introspection, { method: 'POST', body: new URLSearchParams({ token }) });
	const said = await answer.json();
	return said.active ? said.username : undefined;
}

function deliver(recipients, content, user) {
	const text = Buffer.from(content.toString('latin1').replaceAll('\r\n', '\n'), 'latin1');
	const trace = Buffer.from(`Received: by smtp-server for ${user}\n`);
	for (const { address } of recipients) {
		for (const sub of ['tmp', 'new']) fs.mkdirSync(path.join(folder, address, sub), { recursive: true });
		const name = `${process.pid}.${++count}`;
		fs.writeFileSync(path.join(folder, address, 'tmp', name), Buffer.concat([trace, text]));
		fs.renameSync(path.join(folder, address, 'tmp', name), path.join(folder, address, 'new', name));
	}
}

const server = new SMTPServer({
	name: 'smarthost.example',
	cert: fs.readFileSync(cert),
	key: fs.readFileSync(key),
	authMethods: ['XOAUTH2'],
	size: 50 * 1000 * 1000,
	closeTimeout: 1000,
	onAuth(auth, session, done) {
		userOf(auth.accessToken).then(
			(user) => {
				const good = user === auth.username;
				console.log(`login of ${auth.username} ${good ? 'taken' : 'refused'}`);
				done(null, good ? { user } : { data: { status: '401', schemes: 'bearer mac', scope: 'https://mail.google.com/' } });
			},
			(err) => done(err),
		);
	},
	onData(stream, session, done) {
		const parts = [];
		stream.on('data', (part) => parts.push(part));
		stream.on('end', () => {
			deliver(session.envelope.rcptTo, Buffer.concat(parts), session.user);
			done();
		});
	},
});
server.on('error', (err) => console.log(err.message));
server.listen(Number(port), '127.0.0.1');
process.on('SIGTERM', () => server.close(() => process.exit(0)));
