// Large pictures are reduced before they are uploaded; models see only a few hundred pixels a side.

const LARGE_BYTES = 4 * 2 ** 20;
const LARGE_PIXELS = 16e6;
const SIDE = 2048;

/** A smaller, upright copy of a large picture; the file itself if it is small or the browser cannot decode it. */
export async function shrunk(file) {
  const url = URL.createObjectURL(file);
  try {
    const image = new Image();
    image.src = url;
    await image.decode();
    const { naturalWidth: width, naturalHeight: height } = image; // after EXIF rotation
    if (file.size <= LARGE_BYTES && width * height <= LARGE_PIXELS) return file;
    const scale = Math.min(1, SIDE / Math.max(width, height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.round(width * scale));
    canvas.height = Math.max(1, Math.round(height * scale));
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.fillStyle = "white"; // transparent areas would become black in a JPEG
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
    return blob ? new File([blob], file.name, { type: blob.type }) : file;
  } catch {
    return file; // not a picture, or a format that only the server can open
  } finally {
    URL.revokeObjectURL(url);
  }
}
