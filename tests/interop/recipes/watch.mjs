import fs from "node:fs";
import net from "node:net";

const path = "/tmp/events.sock";
const server = net.createServer((sender) => {
  let rest = "";
  sender.setEncoding("utf8"); // otherwise a character that is split over two chunks is lost
  sender.on("error", (error) => console.error(`a sender failed: ${error.message}`));
  sender.on("data", (text) => {
    const lines = (rest + text).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      try {
        const { time, type, unit, payload } = JSON.parse(line);
        console.log(JSON.stringify([time, type, unit, payload]));
      } catch {
        console.error(`skipped a line that is not an event: ${line.slice(0, 80)}`);
      }
    }
  });
});
server.on("error", (error) => {
  if (error.code !== "EADDRINUSE" || !fs.lstatSync(path).isSocket()) throw error;
  net.connect(path)
    .on("connect", () => { throw error; }) // another program listens there
    .on("error", () => {
      console.error(`removed ${path}, which a killed process has left`);
      fs.unlinkSync(path);
      server.listen(path);
    });
});
server.listen(path);
process.once("SIGINT", () => { server.close(); process.exit(); }); // close() removes the socket
