// Nodemailer as a program that mails: hands the message in FILE over as it is.
//
//   node submit.js PORT FROM TO FILE
'use strict';
const fs = require('fs');
const nodemailer = require('nodemailer');

const [port, from, to, file] = process.argv.slice(2);
const transport = nodemailer.createTransport({ host: '127.0.0.1', port: Number(port), name: 'client.lan.example', ignoreTLS: true });
transport.sendMail({ envelope: { from, to: [to] }, raw: fs.readFileSync(file) }).then(
	(info) => console.log(info.response),
	(err) => {
		console.error(err.message);
		process.exit(1);
	},
);
