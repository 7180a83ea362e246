// Large pictures are shrunk before they are uploaded: a model looks at some hundreds of pixels a side.

const LARGE_BYTES = 4 * 2 ** 20;
const LARGE_PIXELS = 16e6;
const SIDE = 2048;

/** A smaller copy of a large picture, upright; the file itself where it is small, or unknown to the browser. */
export async function shrunk(file) {
  const url = URL.createObjectURL(file);
  try {
    const image = new Image();
    image.src = url;
    await image.decode();
    const { naturalWidth: width, naturalHeight: height } = image; // as the EXIF orientation turns them
    if (file.size <= LARGE_BYTES && width * height <= LARGE_PIXELS) return file;
    const scale = Math.min(1, SIDE / Math.max(width, height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.round(width * scale));
    canvas.height = Math.max(1, Math.round(height * scale));
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.fillStyle = "white"; // what is transparent; JPEG would make it black
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
    return blob ? new File([blob], file.name, { type: blob.type }) : file;
  } catch {
    return file; // not a picture, or of a format that only the server opens
  } finally {
    URL.revokeObjectURL(url);
  }
}
