// Where pictures come from: dropped, pasted, chosen, or taken with the camera.

const $ = (id) => document.getElementById(id);

/** `add` is called with a list of files. */
export function start(add) {
  for (const id of ["add", "pick"]) $(id).addEventListener("click", () => $("file").click());
  for (const id of ["photo", "welcome-photo"]) $(id).addEventListener("click", () => photograph(add));
  for (const id of ["file", "file-camera"]) {
    $(id).addEventListener("change", (event) => {
      add([...event.target.files]);
      event.target.value = ""; // so that choosing the same file again is a change
    });
  }
  document.addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files];
    if (files.length) {
      event.preventDefault();
      add(files.map((file) => (file.name ? file : new File([file], "pasted picture", { type: file.type }))));
    }
  });
  let depth = 0;
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  const over = (change) => {
    depth = Math.max(0, depth + change);
    document.body.classList.toggle("dragging", depth > 0);
  };
  document.addEventListener("dragenter", (event) => hasFiles(event) && over(1));
  document.addEventListener("dragleave", (event) => hasFiles(event) && over(-1));
  // Text may be dragged into the question. Elsewhere the browser would open a link that is dropped.
  const isText = (event) => event.target === $("question") && !hasFiles(event);
  document.addEventListener("dragover", (event) => isText(event) || event.preventDefault());
  document.addEventListener("drop", (event) => {
    if (!isText(event)) event.preventDefault();
    depth = 0;
    over(0);
    const files = [...(event.dataTransfer?.files || [])];
    if (files.length) add(files);
  });
}

/** Picture URLs: typed on the first screen, pasted, or dropped as a link. `open` is called with each URL. */
export function startAddresses(open) {
  $("address-form").hidden = false;
  $("address-form").addEventListener("submit", (event) => {
    event.preventDefault();
    open($("address").value.trim());
    $("address").value = "";
  });
  const isWeb = (text) => /^https?:\/\/\S+$/i.test(text);
  const isField = (target) => target.matches?.("input, textarea");
  document.addEventListener("paste", (event) => {
    const text = event.clipboardData.getData("text").trim();
    if (isField(event.target) || event.clipboardData.files.length || !isWeb(text)) return;
    event.preventDefault();
    open(text);
  });
  document.addEventListener("drop", (event) => {
    const link = (event.dataTransfer?.getData("text/uri-list") || "").split("\n")[0].trim();
    if (!isField(event.target) && !event.dataTransfer?.files.length && isWeb(link)) open(link);
  });
}

let asking = false; // for permission to use the camera

async function photograph(add) {
  const dialog = $("camera");
  if (asking || dialog.open) return;
  // Only pages from localhost or over https may use a camera; elsewhere a phone still offers its camera app.
  if (!navigator.mediaDevices?.getUserMedia) return $("file-camera").click();
  let stream;
  asking = true;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch {
    return $("file-camera").click();
  } finally {
    asking = false;
  }
  const stop = () => {
    for (const track of stream.getTracks()) track.stop();
  };
  const video = $("video");
  video.srcObject = stream;
  dialog.showModal();
  const shoot = () => {
    if (!video.videoWidth) return; // there is no image yet
    const canvas = document.createElement("canvas");
    canvas.width = video.videoWidth;
    canvas.height = video.videoHeight;
    canvas.getContext("2d").drawImage(video, 0, 0);
    dialog.close(); // before encoding, so that a second click takes no second photo
    canvas.toBlob((blob) => add([new File([blob], "photo.png", { type: "image/png" })]), "image/png");
  };
  $("shoot").addEventListener("click", shoot);
  dialog.addEventListener(
    "close",
    () => {
      $("shoot").removeEventListener("click", shoot);
      stop();
      video.srcObject = null;
    },
    { once: true },
  );
}
